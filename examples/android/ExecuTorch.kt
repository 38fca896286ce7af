// An ExecuTorch file in an app. Not tried on a device.
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

fun classify(path: String, image: FloatArray, height: Long, width: Long): FloatArray {
    val module = Module.load(path)  // of model.pte, copied from the assets into a file
    val input = EValue.from(Tensor.fromBlob(image, longArrayOf(1, 3, height, width)))
    return module.forward(input)[0].toTensor().dataAsFloatArray
}

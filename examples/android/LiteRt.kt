// A LiteRT file in an app. Not tried on a device.
import android.content.Context
import android.graphics.Bitmap
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import org.tensorflow.lite.Interpreter

class Found(most: Int) {
    val boxes = Array(most) { FloatArray(4) }  // left, top, right, bottom in pixels of the image
    val scores = FloatArray(most)              // 0 where there is no object
    val labels = LongArray(most)
    val masks = Array(most) { Array(28) { FloatArray(28) } }  // of Mask R-CNN, filling the boxes
}

class Model(context: Context, private val mean: FloatArray, private val std: FloatArray) {
    private val interpreter = context.assets.openFd("model.tflite").use { file ->
        file.createInputStream().channel.use {
            Interpreter(it.map(FileChannel.MapMode.READ_ONLY, file.startOffset, file.declaredLength))
        }
    }

    fun classify(bitmap: Bitmap, classes: Int): FloatArray {
        val logits = Array(1) { FloatArray(classes) }
        interpreter.run(planes(bitmap), logits)
        return logits[0]
    }

    fun detect(bitmap: Bitmap, most: Int): Found {  // with masks; without, the first three outputs
        val found = Found(most)
        val outputs = mapOf(0 to found.boxes, 1 to found.scores, 2 to found.labels, 3 to found.masks)
        interpreter.runForMultipleInputsOutputs(arrayOf<Any>(planes(bitmap)), outputs)
        return found
    }

    private fun planes(bitmap: Bitmap): ByteBuffer {  // of the size that the model takes
        val input = ByteBuffer.allocateDirect(4 * 3 * bitmap.height * bitmap.width).order(ByteOrder.nativeOrder())
        for (channel in 0..2) for (y in 0 until bitmap.height) for (x in 0 until bitmap.width) {
            val value = (bitmap.getPixel(x, y) shr (16 - 8 * channel)) and 0xff  // red, green, blue
            input.putFloat((value - mean[channel]) / std[channel])
        }
        input.rewind()
        return input
    }
}

// A Core ML file in an app. Not tried on a device.
import CoreML
import Vision

func classify(_ image: CGImage) throws {
    let url = Bundle.main.url(forResource: "model", withExtension: "mlmodelc")!
    let model = try VNCoreMLModel(for: MLModel(contentsOf: url))
    let request = VNCoreMLRequest(model: model) { request, _ in
        guard let best = (request.results as? [VNClassificationObservation])?.first else { return }
        print(best.identifier, best.confidence)
    }
    request.imageCropAndScaleOption = .centerCrop  // of the image; the test takes crop_pct of that
    try VNImageRequestHandler(cgImage: image).perform([request])
}

struct Found { let box: CGRect, score: Float, label: Int }

func detect(_ image: CGImage, in size: CGSize) throws -> [Found] {  // size: of the image that the model takes
    let url = Bundle.main.url(forResource: "detector", withExtension: "mlmodelc")!
    let request = VNCoreMLRequest(model: try VNCoreMLModel(for: MLModel(contentsOf: url)))
    request.imageCropAndScaleOption = .scaleFill
    try VNImageRequestHandler(cgImage: image).perform([request])
    var outputs: [String: MLMultiArray] = [:]
    for case let result as VNCoreMLFeatureValueObservation in request.results ?? [] {
        outputs[result.featureName] = result.featureValue.multiArrayValue
    }
    guard let boxes = outputs["boxes"], let scores = outputs["scores"], let labels = outputs["labels"] else { return [] }
    let x = CGFloat(image.width) / size.width, y = CGFloat(image.height) / size.height
    return (0..<scores.count).filter { scores[$0].floatValue > 0 }.map { i in
        let edges = (0..<4).map { CGFloat(boxes[[i as NSNumber, $0 as NSNumber]].doubleValue) }  // left, top, right, bottom
        return Found(box: CGRect(x: edges[0] * x, y: edges[1] * y, width: (edges[2] - edges[0]) * x,
                                 height: (edges[3] - edges[1]) * y),
                     score: scores[i].floatValue, label: labels[i].intValue)
    }
}

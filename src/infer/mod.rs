//! Tensors to embeddings: quantized ONNX models on tract.

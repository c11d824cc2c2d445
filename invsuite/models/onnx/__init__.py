"""ONNX files as frozen, differentiable models; needs the packages of the extra ``onnx``."""

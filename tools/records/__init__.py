"""What wrote the records of the book and the weights of the package, each called by hand.

- `train_cifar` writes ``book/records/*.json``
- `train_resnet` writes ``bigmodel_helpers/weights/``
- `scaling`, with the fits of `scaling_fit`, writes ``book/scaling.json``
- `llama_cpp` writes ``book/llama_cpp.json``
"""

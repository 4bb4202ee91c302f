"""Training of every part of a model on the model definition itself, by torch's autograd."""

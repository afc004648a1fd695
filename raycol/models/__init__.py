"""Models: finding a checkpoint, opening an encoder, saving it, copies of models in object stores."""

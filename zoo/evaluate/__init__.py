"""What uses a trained model: accuracy, published accuracy measured anew, classes of pictures, probes."""

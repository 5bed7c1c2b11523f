"""Uses of a trained model: accuracy, reproduction of published accuracy, classification of pictures, probes."""

"""VGG-small for 32x32 images: six convolutions and one linear layer, as the literature on binarization has it."""

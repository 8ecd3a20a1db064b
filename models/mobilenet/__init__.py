"""A MobileNetV2 for 32x32 images: inverted residuals around depthwise convolutions (Sandler et al., 2018)."""

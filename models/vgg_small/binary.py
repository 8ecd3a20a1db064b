"""The form for binary layers, in which VGG-small is published: max pool in front of the batch-norm, and no ReLU.

``hardtanh(bn(pool(conv(x))))``, as in IR-Net (Qin et al., CVPR 2020), whose form FDA-BNN and ReSTE are compared in.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from graphopt.models.vgg_small import module


class BinaryVggSmall(module.VggSmall):
    """The float net that gets binary layers; parameters have the names of ``VggSmall``."""

    def forward(self, image: Tensor) -> Tensor:
        """``image`` is normalised, ``[n, 3, size, size]``; returns logits ``[n, classes]``."""
        x = image
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = conv(x)
            if index % 2:
                x = functional.max_pool2d(x, 2)
            x = functional.hardtanh(norm(x))
        return self.linear(x.flatten(1))


def new(seed: int = 0, width: int = 128, size: int = 32) -> BinaryVggSmall:
    """Return a float net with random weights, the same ones for the same seed; ``binarize_net`` makes it binary.

    Args:
        seed: Of the weights.
        width: Channels of the first two convolutions; the others have twice and four times as many.
        size: Height and width of the images, a multiple of 8.

    Raises:
        UsageError: The size is no positive multiple of 8.
    """
    net = BinaryVggSmall(width, size=size)
    net.load_state_dict(module.new(seed, width, size).state_dict())
    return net

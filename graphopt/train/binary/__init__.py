"""Binarization: weights and activations of one bit, trained with the gradient of a truncated series.

::

    settings.py    how
    bases.py       what stands for the derivative of sign: Fourier, Haar, discrete Fourier
    baselines.py   the same for published estimators: STE, DSQ, Bi-Real, ReSTE
    methods.py     all of these by name
    sign.py        the sign, exact forward, a basis backward
    error.py       the error module, which fades while training
    schedules.py   what changes in the course of the training
    layers.py      binary layers; float nets that get them
    form.py        families with a form of their own for binary layers
    binarize.py    trained, resumable, exported
    deploy.py      packed into bits and thresholds
"""

from graphopt.train.agreement import Agreement, agreement, require
from graphopt.train.binary.baselines import BiReal, RectifiedStraightThrough, SoftQuantization, StraightThrough
from graphopt.train.binary.bases import Basis, DiscreteFourier, Fourier, Haar
from graphopt.train.binary.binarize import Binarized, binarize, binary_net
from graphopt.train.binary.deploy import lowered, to_onnx
from graphopt.train.binary.error import ErrorModule
from graphopt.train.binary.layers import BinaryConv2d, BinaryLinear, binarize_net, deployable, without_errors
from graphopt.train.binary.methods import basis
from graphopt.train.binary.schedules import Course
from graphopt.train.binary.settings import BinarizeSettings
from graphopt.train.binary.sign import Sign, sign, signs

__all__ = [
    "Agreement",
    "Basis",
    "BiReal",
    "BinarizeSettings",
    "Binarized",
    "BinaryConv2d",
    "BinaryLinear",
    "Course",
    "DiscreteFourier",
    "ErrorModule",
    "Fourier",
    "Haar",
    "RectifiedStraightThrough",
    "Sign",
    "SoftQuantization",
    "StraightThrough",
    "agreement",
    "basis",
    "binarize",
    "binarize_net",
    "binary_net",
    "deployable",
    "lowered",
    "require",
    "sign",
    "signs",
    "to_onnx",
    "without_errors",
]

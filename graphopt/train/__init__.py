"""Training the models that are worth optimizing: pruned, quantized and binarized in torch, exported, proved.

::

    data.py        samples to learn from and to judge by
    task.py        what is learnt: the loss, and the figure that people read
    family.py      a kind of net with its data, its task and its export; graphopt.models has one folder each
    settings.py    how a stage of training goes: epochs, optimizer, rate
    hooks.py       what has a say in every step: weights that are held, numbers that follow a schedule
    trainer.py     the loop: stages, epochs, steps
    order.py       in which order samples are seen, and how they become batches
    schedules.py   numbers that follow the share of training that is done
    checkpoint.py  what a training stands at, whole or not at all
    distributed.py several processes that train one net
    fake.py        fake quantizers
    agreement.py   a net and its ONNX file, judged by their answers
    recipe.py      which net, on what data, trained how, made small by which method
    fields.py      parts of a recipe as dataclasses with checked types
    run.py         what the commands do: train, make small, export, optimize, verify, measure
    prune/         importance-aware pruning
    quantize/      neuron-by-neuron quantization
    binary/        binarization with series-expansion gradients

Torch is imported here, in ``graphopt.models`` and in ``graphopt.torch_export``, and nowhere else.
"""

"""The decoder of letters: its cache, its file, what pruning takes out of the file, and the text that it writes."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from graphopt import model as models
from graphopt import optimize, runtime
from graphopt.errors import ModelError, UsageError
from graphopt.models.char_gpt import export, generate, letters, narrow, units
from graphopt.models.char_gpt.family import FAMILY
from graphopt.models.char_gpt.module import CharGPT, new
from graphopt.models.data import shakespeare
from graphopt.train import recipe
from graphopt.train.data import Data
from graphopt.train.family import family, names
from graphopt.train.prune import PruneSettings, prune
from graphopt.train.prune.groups import Group, Slice, groups
from graphopt.train.settings import Settings
from graphopt.train.task import LANGUAGE
from graphopt.train.trainer import Trainer

LETTERS = "abcdefghijklm"
WIDTH, SIZE, HIDDEN = 37, 6, 23
SPARE = 24
"""Numbers that an exporter adds: epsilons, exponents, axes."""


def net(heads: int = 6, keys: int = 2, depth: int = 2, seed: int = 0) -> CharGPT:
    """A small one of prime width; norms are not 1, so that a norm in the wrong place shows."""
    made = new(seed, letters=LETTERS, width=WIDTH, heads=heads, keys=keys, size=SIZE, hidden=HIDDEN, depth=depth)
    numbers = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5, generator=numbers)
    return made.eval()


def some_ids(batch: int, time: int, seed: int = 0) -> Tensor:
    return torch.randint(len(LETTERS), (batch, time), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def step_by_step(model: CharGPT, ids: Tensor, parts: Sequence[int]) -> Tensor:
    """Logits of all ids, read in parts with the cache."""
    cache, found, at = model.empty(len(ids)), [], 0
    for time in parts:
        positions = torch.arange(at, at + time).expand(len(ids), time)
        logits, *cache = model(ids[:, at : at + time], positions, *cache)
        found.append(logits)
        at += time
    assert all(one.shape[2] == at for one in cache)
    return torch.cat(found, 1)


@torch.no_grad()
def zero(model: CharGPT, group: Group, dead: Sequence[int]) -> None:
    """What pruning does to some units."""
    for one in group.writes:
        where = torch.from_numpy(one.index[list(dead)].reshape(-1))
        model.get_parameter(one.parameter).index_fill_(one.axis, where, 0)


def pruned(heads: int, keys: int, dead: Sequence[int], hidden: Sequence[int], depth: int = 2) -> CharGPT:
    model, chosen = net(heads, keys, depth), {"head": dead, "hidden": hidden, "stream": ()}
    for group in units.groups(model):
        zero(model, group, chosen[group.kind])
    return model


def largest_difference(model: CharGPT, file: ir.Model, sizes: Sequence[tuple[int, int, int]]) -> float:
    """Between torch and onnxruntime, over all outputs and (batch, time, past)."""
    session, worst = runtime.session(file), 0.0
    inputs = [str(value.name) for value in file.graph.inputs]
    for batch, time, past in sizes:
        values = export.continued(model, batch, time, past, seed=time)
        with torch.no_grad():
            wanted = model(*values)
        found = runtime.run(session, dict(zip(inputs, (value.numpy() for value in values), strict=True)))
        for a, b in zip(found, wanted, strict=True):
            assert a.shape == b.shape
            worst = max(worst, float(np.abs(a - b.numpy()).max(initial=0)))
    return worst


SIZES = [(1, 1, 0), (1, 13, 0), (2, 1, 7), (3, 4, 3), (0, 3, 2), (2, 0, 3), (1, 1, 1)]
"""Batch, time, past."""


@functools.cache
def exported_as(heads: int, keys: int, depth: int) -> ir.Model:
    """Exporting takes seconds: one file for each architecture."""
    return export.to_onnx(net(heads, keys, depth))


def file_of(model: CharGPT) -> ir.Model:
    """The file of a net that has lost weights only: those of the file are replaced."""
    attention = model.attentions()[0]
    file = models.clone(exported_as(attention.heads, attention.keys, len(model.parts())))
    for name, parameter in model.named_parameters():
        value = file.graph.initializers[name]
        assert value.shape == parameter.shape
        value.const_value = ir.tensor(parameter.detach().numpy().copy(), name=name)
    return file


@pytest.fixture(scope="module")
def exported() -> ir.Model:
    return exported_as(6, 2, 2)


@pytest.fixture(scope="module")
def file(exported: ir.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("char_gpt") / "net.onnx"
    models.save(exported, path)
    return path


# --- the net ----------------------------------------------------------------------------------------------------------


def test_same_seed_same_net() -> None:
    state = torch.get_rng_state()
    one, same, other = (new(seed, width=16, heads=2, keys=1, hidden=8, depth=1).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["layers.0.feed.up.weight"], other["layers.0.feed.up.weight"])


@pytest.mark.parametrize(
    "options",
    [
        {"heads": 6, "keys": 4},
        {"heads": 3, "keys": 1, "width": 128},
        {"heads": 0},
        {"depth": 0},
        {"size": 3},
        {"letters": ""},
        {"letters": "aba"},
    ],
)
def test_sizes_that_do_not_fit(options: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        new(**options)  # type: ignore[arg-type]
    assert caught.value.help


@pytest.mark.parametrize(("heads", "keys"), [(2, 2), (4, 2), (6, 2), (3, 1)])
@pytest.mark.parametrize("parts", [[11], [1] * 11, [3, 1, 0, 7], [10, 1]])
def test_reading_in_parts_is_reading_at_once(heads: int, keys: int, parts: list[int]) -> None:
    model, ids = net(heads, keys).double(), some_ids(2, 11)
    with torch.no_grad():
        torch.testing.assert_close(step_by_step(model, ids, parts), model(ids), rtol=0, atol=1e-13)


def test_a_letter_changes_nothing_before_it() -> None:
    model, ids = net(), some_ids(2, 11)
    other = ids.clone()
    other[:, 5] = (other[:, 5] + 1) % len(LETTERS)
    with torch.no_grad():
        changed = (model(ids) != model(other)).any(2)
    assert not changed[:, :5].any()
    assert changed[:, 5:].all()


def test_order_matters() -> None:
    """Near miss of a net without positions: it would give the last letter of both the same logits."""
    model, ids = net(), some_ids(1, 7)
    turned = ids[:, [1, 0, 2, 3, 4, 5, 6]]
    assert ids[0, 0] != ids[0, 1]
    with torch.no_grad():
        assert (model(ids)[0, -1] - model(turned)[0, -1]).abs().max() > 1e-3


def test_every_weight_learns() -> None:
    model = net()
    LANGUAGE.loss(model(some_ids(2, 7)), some_ids(2, 7, seed=1)).backward()
    assert all(one.grad is not None and one.grad.abs().max() > 0 for one in model.parameters())


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_is_the_net(exported: ir.Model) -> None:
    assert [str(value.name) for value in exported.graph.inputs[:4]] == [
        "ids",
        "positions",
        "past.0.key",
        "past.0.value",
    ]
    assert [str(value.name) for value in exported.graph.outputs[-2:]] == ["present.1.key", "present.1.value"]
    assert exported.metadata_props[letters.METADATA] == LETTERS
    assert largest_difference(net(), exported, SIZES) < 5e-6


def test_other_families_are_refused() -> None:
    for refuses in (export.to_onnx, units.groups):
        with pytest.raises(TypeError, match="Linear is not a CharGPT"):
            refuses(torch.nn.Linear(1, 1))


def test_the_family_judges_its_file(exported: ir.Model, tmp_path: Path) -> None:
    """The same perplexity in torch and in onnxruntime, by the inputs that the family feeds."""
    assert "char_gpt" in names() and family("char_gpt") is FAMILY
    numbers = np.random.default_rng(0)
    text = tmp_path / "text.txt"
    text.write_text(LETTERS + letters.text(numbers.integers(0, len(LETTERS), 1000), LETTERS), encoding="utf-8")
    data, model = FAMILY.data(text=text, window=11), net()
    assert isinstance(data, shakespeare.Text) and data.characters == LETTERS
    wanted = LANGUAGE.evaluate(model, data)
    assert FAMILY.feeds is not None
    feeds = FAMILY.feeds(model, data.test.inputs.numpy())
    session = runtime.session(exported)
    at = [value.name for value in session.get_outputs()].index(FAMILY.output)
    total, count = LANGUAGE.count(torch.from_numpy(runtime.run(session, feeds)[at]), data.test.targets)
    assert LANGUAGE.finish(float(total) / count) == pytest.approx(wanted, rel=1e-6)
    assert len(LETTERS) < wanted < 1e4


# --- pruning ----------------------------------------------------------------------------------------------------------


def numbers_of(model: CharGPT, heads: int, hidden: int) -> int:
    """Weights without so many query heads and hidden units a layer."""
    gone = model.attentions()[0].size * 2 * heads + 3 * hidden
    return sum(one.numel() for one in model.parameters()) - len(model.parts()) * gone * WIDTH


@pytest.mark.parametrize(
    ("heads", "keys", "dead", "hidden"),
    [
        pytest.param(6, 2, [0, 1, 3, 5], range(0, HIDDEN, 2), id="half-of-all"),
        pytest.param(4, 2, [0, 3], range(0, HIDDEN, 2), marks=pytest.mark.long),
        pytest.param(6, 2, [0, 1, 2], range(1, HIDDEN), id="a-key-group-dies"),
        pytest.param(6, 2, [0, 1, 4], [5], id="groups-of-other-sizes"),
        pytest.param(6, 2, range(6), range(HIDDEN), id="all-dead"),
        pytest.param(3, 1, [1], [], marks=pytest.mark.long),
    ],
)
def test_dead_units_leave_the_file(heads: int, keys: int, dead: Sequence[int], hidden: Sequence[int]) -> None:
    """Query heads and hidden units go, the cache stays; fewer products are computed; every output is the same."""
    model = pruned(heads, keys, dead, hidden)
    result = optimize(file_of(model), measure=False)
    left = numbers_of(model, len(dead), len(hidden)) - 2 * WIDTH * (len(hidden) == HIDDEN)  # their norm dies with all
    assert left <= result.report.after.parameters <= left + SPARE
    before, after = result.report.before.macs, result.report.after.macs
    assert after is not None and before is not None and after < before
    assert largest_difference(model, result.model, SIZES) < 5e-6
    assert result.model.metadata_props[letters.METADATA] == LETTERS


def test_without_shared_keys_only_the_output_shrinks() -> None:
    """Every head's keys and values are in the cache, so its query is still multiplied: the near miss of the above."""
    model = pruned(2, 2, [1], [], depth=1)
    result = optimize(file_of(model), measure=False, plan="smallest")
    output = SIZE * WIDTH
    left = numbers_of(model, 0, 0) - output
    assert left <= result.report.after.parameters <= left + SPARE
    assert largest_difference(model, result.model, SIZES) < 5e-6


def test_a_dead_group_leaves_the_cache_of_a_narrow_net() -> None:
    model = pruned(6, 2, [0, 1, 2, 4], [], depth=1)
    small = narrow.without_dead_groups(model)
    with torch.no_grad():
        wanted = model(some_ids(2, 7))
        torch.testing.assert_close(small(some_ids(2, 7)), wanted, rtol=0, atol=2e-6)
        torch.testing.assert_close(step_by_step(small, some_ids(2, 7), [3, 4]), wanted, rtol=0, atol=2e-6)
    assert [one.shape[1] for one in (*model.empty(1), *small.empty(1))] == [2, 2, 1, 1]
    assert numbers_of(small, 0, 0) == numbers_of(model, 3, 0) - 2 * SIZE * WIDTH  # three heads, their key and value


def test_one_weight_keeps_a_group_alive() -> None:
    model = pruned(4, 2, range(4), [])
    weight = model.parts()[0].attention
    assert weight is not None
    with torch.no_grad():
        weight.output.weight[3, 2 * SIZE] = 1e-3  # a column of query head 2, which reads key head 1
    assert narrow.dead_groups(weight).tolist() == [True, False]
    small = narrow.without_dead_groups(model)
    with torch.no_grad():
        torch.testing.assert_close(small(some_ids(2, 7)), model(some_ids(2, 7)), rtol=0, atol=2e-6)
    file = export.to_onnx(small)  # the second layer has no cache
    assert [str(value.name) for value in file.graph.inputs] == ["ids", "positions", "past.0.key", "past.0.value"]
    assert largest_difference(small, optimize(file, measure=False).model, SIZES) < 5e-6


def test_a_net_without_any_heads_has_no_cache() -> None:
    small = narrow.without_dead_groups(pruned(4, 2, range(4), [], depth=1))
    assert small.empty(2) == () and export.cache_names(small, "past") == []
    assert list(export.feeds(small, some_ids(1, 2).numpy())) == ["ids", "positions"]


@pytest.mark.long
def test_a_net_without_any_heads_is_exported() -> None:
    small = narrow.without_dead_groups(pruned(4, 2, range(4), [], depth=1))
    found = export.to_onnx(small)
    assert [str(value.name) for value in found.graph.inputs] == ["ids", "positions"]
    assert largest_difference(small, found, [(1, 1, 0), (2, 7, 0)]) < 5e-6


def test_dead_channels_of_the_stream_leave_the_file() -> None:
    """Norms divide by the width that was: the mean of squares is taken over what is left, and corrected."""
    model = net()
    zero(model, units.groups(model)[0], range(0, WIDTH, 2))
    result = optimize(file_of(model), measure=False)
    left = net_of_width(WIDTH // 2)
    assert left <= result.report.after.parameters <= left + SPARE
    assert largest_difference(model, result.model, SIZES) < 5e-6


def net_of_width(width: int) -> int:
    """All weights of a net that was made so narrow."""
    made = new(letters=LETTERS, width=width, heads=6, keys=2, size=SIZE, hidden=HIDDEN, depth=2)
    return sum(one.numel() for one in made.parameters())


def test_zeros_in_what_is_written_remove_a_unit() -> None:
    """Whatever stands in what reads it; of another unit, it does count."""
    ids = some_ids(2, 7)
    for number, group in enumerate(units.groups(net())):
        model = net()
        zero(model, group, [1])
        with torch.no_grad():
            wanted = model(ids)
            assert (net()(ids) - wanted).abs().max() > 1e-4
            for unit, same in ((1, True), (0, False)):
                for one in units.groups(model)[number].reads:
                    model.get_parameter(one.parameter).index_fill_(one.axis, torch.from_numpy(one.index[unit]), 7.0)
                found = model(ids)
                assert bool((found - wanted).abs().max() < 5e-6) == same, group.name


def test_a_search_in_the_graph_finds_the_same_units() -> None:
    """All but heads, which it finds by the keys that they share: the family's heads of a key group, taken together."""
    model = net(depth=1)
    mine, searched = units.groups(model), groups(model, FAMILY.example(model), stream=True)
    assert [(one.kind, one.units) for one in mine] == [("stream", WIDTH), ("head", 6), ("hidden", HIDDEN)]
    assert sorted((one.kind, one.units) for one in searched) == [("head", 2), ("hidden", HIDDEN), ("stream", WIDTH)]
    for kind in ("stream", "hidden"):
        a, b = (next(one for one in found if one.kind == kind) for found in (mine, searched))
        assert a.name == b.name
        for one, other in ((a.writes, b.writes), (a.reads, b.reads)):
            assert places(one) == places(other)
    together = next(one for one in searched if one.kind == "head")
    alone = next(one for one in mine if one.kind == "head")
    for one in (*alone.writes, *alone.reads):
        merged = Slice(one.parameter, one.axis, one.index.reshape(together.units, -1))
        assert places([merged]).items() <= places((*together.writes, *together.reads)).items()


def places(slices: Sequence[Slice]) -> dict[tuple[str, int], list[list[int]]]:
    return {(one.parameter, one.axis): np.sort(one.index, 1).tolist() for one in slices}


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rhyme(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """A text that repeats itself; what follows ``ba``, or ``da``, is known by who reads what was before them."""
    text = tmp_path_factory.mktemp("rhyme") / "text.txt"
    text.write_text("bacbafdagdamjklhie" * 60, encoding="utf-8")
    return FAMILY.data(text=text, window=13)


FAST = Settings(epochs=6, batch=8, optimizer="adamw", rate=1e-2, schedule="cosine", clip=1.0)


def test_a_rhyme_is_learnt_and_pruning_keeps_it(rhyme: Data) -> None:
    """Half of the heads and hidden units, in rounds: gone from the file, which is as perplexed as torch."""
    model = net()
    trainer = Trainer(model, rhyme, LANGUAGE, seed=1)
    assert trainer.evaluate() > 8
    trainer.fit(FAST)
    assert trainer.evaluate() < 1.5
    settings = PruneSettings(score="taylor", structure="units", amount=0.5, rounds=2, samples=32, retrain=FAST)
    found = prune(Trainer(model, rhyme, LANGUAGE, seed=1), settings, FAMILY)
    assert found.figure < 1.5
    for layer in model.parts():
        assert layer.attention is not None
        heads = (layer.attention.output.weight.unflatten(1, (6, SIZE)) == 0).all(2).all(0)
        assert int(heads.sum()) == 3
        assert int((layer.feed.down.weight == 0).all(0).sum()) in (HIDDEN // 2, HIDDEN // 2 + 1)
        assert not (layer.attention.key.weight == 0).any()
    result = optimize(file_of(model), measure=False)
    left = numbers_of(model, 3, HIDDEN // 2 + 1)
    assert left <= result.report.after.parameters <= left + 3 * WIDTH * 2 + SPARE
    assert FAMILY.feeds is not None
    feeds = FAMILY.feeds(model, rhyme.test.inputs.numpy())  # type: ignore[attr-defined]
    logits = runtime.run(runtime.session(result.model), feeds)[0]
    total, count = LANGUAGE.count(torch.from_numpy(logits), rhyme.test.targets)  # type: ignore[attr-defined]
    assert LANGUAGE.finish(float(total) / count) == pytest.approx(found.figure, rel=1e-5)


def test_heads_alone(rhyme: Data) -> None:
    model = net()
    settings = PruneSettings(score="magnitude", structure="head", rounds=1, samples=8, retrain=Settings(epochs=0))
    prune(Trainer(model, rhyme, LANGUAGE), settings, FAMILY)
    zero = {name for name, one in model.named_parameters() if (one == 0).any()}
    assert zero == {f"layers.{i}.attention.{name}.weight" for i in (0, 1) for name in ("output", "query")}


def test_the_recipe_is_the_net_of_the_readme() -> None:
    found = recipe.load("char_gpt")
    assert found.family is FAMILY and found.prune is not None and found.prune.structure == "units"
    made = found.new_net()
    assert isinstance(made, CharGPT) and made.letters == letters.LETTERS
    assert sum(one.numel() for one in made.parameters()) == 804_224


# --- text -------------------------------------------------------------------------------------------------------------


def test_the_likeliest_letters(file: Path) -> None:
    """One by one with the cache in onnxruntime: what torch says without a cache."""
    found = generate.generate(file, "abcab", 9)
    ids = torch.from_numpy(letters.ids("abcab", LETTERS))[None]
    with torch.no_grad():
        for _ in range(9):
            ids = torch.cat([ids, net()(ids)[:, -1:].argmax(2)], 1)
    assert found.prompt + found.text == letters.text(ids[0].numpy(), LETTERS)
    assert found.prompt_seconds > 0 and found.tokens_per_second > 0


def test_letters_are_drawn_by_their_odds(file: Path) -> None:
    decoder = generate.Decoder(file)
    one, same, other = (generate.generate(decoder, "a", 40, temperature=1.0, seed=seed).text for seed in (0, 0, 1))
    assert one == same != other
    cold = generate.generate(decoder, "a", 40, temperature=1e-9)
    assert cold.text == generate.generate(decoder, "a", 40).text
    odds = np.exp(decoder_logits(decoder, "a"))
    odds /= odds.sum()
    drawn = [generate.generate(decoder, "a", 1, temperature=1.0, seed=seed).text for seed in range(600)]
    for letter, expected in zip(LETTERS, odds, strict=True):
        assert abs(drawn.count(letter) / 600 - expected) < 5 * math.sqrt(expected / 600)


def decoder_logits(decoder: generate.Decoder, text: str) -> np.ndarray:
    decoder.forget()
    return decoder.read(letters.ids(text, LETTERS)[None])[0, -1].astype(np.float64)


def test_no_letters_at_all(file: Path) -> None:
    found = generate.generate(file, "ab", 0)
    assert found.text == "" and math.isnan(found.tokens_per_second)
    assert math.isnan(generate.generate(file, "ab", 1).tokens_per_second)


def test_the_command_writes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main([str(file), "--prompt", "abc", "--tokens", "5", "--temperature", "0"]) == 0
    said = capsys.readouterr()
    assert said.out == "abc" + generate.generate(file, "abc", 5).text + "\n"
    assert "letters a second" in said.err


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--prompt", "abxa"], "the net does not know the letter 'x'\n  --> place 2 of the text"),
        (["--prompt", ""], "the prompt is empty"),
        (["--tokens", "-1"], "-1 letters cannot be written"),
        (["--temperature", "-0.5"], "a temperature of -0.5"),
        (["--temperature", "nan"], "a temperature of nan"),
        (["--seed", "-1"], "a seed of -1"),
        (["--threads", "0"], "0 threads"),
    ],
)
def test_the_command_refuses(file: Path, arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is written."""
    assert generate.main([str(file), "--prompt", "a", *arguments]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {what}") and "\n  help: " in said.err and said.out == ""


def test_the_command_knows_no_such_option(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        generate.main([str(file), "--temp", "1"])
    assert stopped.value.code == 2 and "unrecognized arguments: --temp" in capsys.readouterr().err


def test_other_files_are_refused(exported: ir.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main([str(tmp_path / "none.onnx")]) == 1
    text = "agraph (float[n, 3] x) => (float[n, 3] y) { y = Relu(x) }"
    stranger = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {text}')
    onnx.save(stranger, tmp_path / "relu.onnx")
    assert generate.main([str(tmp_path / "relu.onnx")]) == 1
    said = capsys.readouterr().err
    assert "the model is not a decoder with a cache" in said and "relu.onnx" in said and "Traceback" not in said
    silent = models.clone(exported)
    silent.metadata_props.clear()
    with pytest.raises(ModelError, match="does not say its letters"):
        generate.Decoder(silent)

"""The paper's spaces: sizes, what codes mean against published facts, pictures, the command, short searches."""

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from lmsearcher_local.candidates.history import History
from lmsearcher_local.cli.main import PRESETS as OFFERED
from lmsearcher_local.cli.main import main
from lmsearcher_local.errors import SpaceError
from lmsearcher_local.model.ranker import Ranker, Task
from lmsearcher_local.presets.registry import PRESETS, Preset, preset, preset_of
from lmsearcher_local.search.searcher import Searcher
from lmsearcher_local.spaces.space import SearchSpace

each = pytest.mark.parametrize("known", PRESETS.values(), ids=list(PRESETS))

SIZES = {  # positions and codes, from the papers' counts
    "nasbench201": (6, 5**6),
    "darts": (22, (1 * 3 * 6 * 10 * 7**8) ** 2),  # pairs of inputs of the four nodes, seven operations on eight edges
    "sam_lora": (32, 4**32),
    "sd_lora": (48, 3**48),
    "iwslt_transformer": (33, 2**2 * 3**12 * 2**18 * 6),
    "nasbench_asr": (9, 13_824),
}


def sample(known: Preset, n: int = 200) -> list[str]:
    return known.space.sample(np.random.default_rng(0), n)


def architecture(name: str, code: str) -> Any:
    return preset(name).architecture(preset(name).space.decode(code))


def test_the_command_line_offers_every_preset() -> None:
    assert sorted(PRESETS) == sorted(OFFERED)
    with pytest.raises(SpaceError, match="no preset 'x'; allowed: nasbench201, darts"):
        preset("x")


@each
def test_sizes_and_round_trips(known: Preset) -> None:
    assert (len(known.space.sizes), known.space.size) == SIZES[known.name]
    assert known.space.valid is None
    assert known.space.code_length == len(known.space.sizes)  # one digit a position, as the published model reads it
    for code in sample(known):
        assert known.space.encode(known.space.decode(code)) == code
    assert preset_of(SearchSpace(known.space.describe())) is known
    assert preset_of(SearchSpace(known.space.sizes)) is None


@each
def test_every_option_of_every_position_changes_the_architecture(known: Preset) -> None:
    base = known.space.code([size - 1 for size in known.space.sizes])  # all six decoder layers of the Transformer
    seen = set()
    for code in [base, *known.space.neighbours(base)]:
        configuration = known.space.decode(code)
        seen.add(json.dumps(known.architecture(configuration)))
        assert known.summary(configuration)
    assert len(seen) == 1 + sum(size - 1 for size in known.space.sizes)


def test_nasbench201_example_of_its_documentation() -> None:
    assert architecture("nasbench201", "334131") == (
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"
    )


def test_darts_second_order_cell_as_published() -> None:
    space = preset("darts").space
    sep, skip, most = "sep_conv_3x3", "skip_connect", "max_pool_3x3"
    operations = {
        "normal": [sep, sep, skip, sep, skip, sep, sep, skip],
        "reduce": [most, most, most, skip, most, skip, "avg_pool_3x3", skip],
    }
    inputs = {"normal": ["0 1", "0 1", "0 1", "0 2"], "reduce": ["0 1", "0 2", "0 2", "0 2"]}
    configuration = {}
    for cell in ("normal", "reduce"):
        for node in range(4):
            configuration[f"{cell}_{node + 2}_a"], configuration[f"{cell}_{node + 2}_b"] = operations[cell][
                2 * node : 2 * node + 2
            ]
            if node:
                configuration[f"{cell}_{node + 2}_inputs"] = inputs[cell][node]
    found = architecture("darts", space.encode(configuration))
    published = {
        "normal": [(sep, 1), (sep, 0), (skip, 0), (sep, 1), (skip, 0), (sep, 1), (sep, 0), (skip, 2)],
        "normal_concat": [2, 3, 4, 5],
        "reduce": [(most, 0), (most, 1), (skip, 2), (most, 0), (most, 0), (skip, 2), (skip, 2), ("avg_pool_3x3", 0)],
        "reduce_concat": [2, 3, 4, 5],
    }
    assert list(found) == list(published)
    for field, value in published.items():
        if field.endswith("concat"):
            assert found[field] == value
        else:  # the order of a node's two inputs means nothing
            assert [set(found[field][i : i + 2]) for i in (0, 2, 4, 6)] == [set(value[i : i + 2]) for i in (0, 2, 4, 6)]


def test_every_darts_node_has_two_different_earlier_inputs() -> None:
    for code in sample(preset("darts")):
        genotype = architecture("darts", code)
        for cell in ("normal", "reduce"):
            for i in range(4):
                (_, first), (_, second) = genotype[cell][2 * i : 2 * i + 2]
                assert 0 <= first < second < i + 2


@pytest.mark.parametrize(("name", "count"), [("sam_lora", 32), ("sd_lora", 160)])
def test_peft_gives_every_layer_its_rank(name: str, count: int) -> None:
    peft = pytest.importorskip("peft")
    with torch.device("meta"):  # the real modules with the published sizes, without memory for their weights
        if name == "sam_lora":
            from transformers import SamVisionConfig
            from transformers.models.sam.configuration_sam import SamConfig
            from transformers.models.sam.modeling_sam import SamModel

            huge = SamVisionConfig(
                hidden_size=1280, num_hidden_layers=32, num_attention_heads=16, global_attn_indexes=[7, 15, 23, 31]
            )
            model = SamModel(SamConfig(vision_config=huge.to_dict()))
        else:
            diffusers = pytest.importorskip("diffusers")
            model = diffusers.UNet2DConditionModel(
                block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8
            )
            assert sum(weight.numel() for weight in model.parameters()) == 859_520_964  # v1.5's
        [code] = sample(preset(name), 1)
        wanted = architecture(name, code)
        adapted = peft.get_peft_model(model, peft.LoraConfig(**wanted))
    ranks = {
        path.removeprefix("base_model.model."): module.r["default"]
        for path, module in adapted.named_modules()
        if hasattr(module, "lora_A") and isinstance(module.r, dict)
    }
    assert len(ranks) == count
    assert ranks == wanted["rank_pattern"]


def test_stable_diffusion_groups_are_those_of_16_blocks() -> None:
    ranks = architecture("sd_lora", "012" * 16)["rank_pattern"]
    at = "up_blocks.3.attentions.2.transformer_blocks.0"  # names as the published UNet's weights have them
    assert ranks[f"{at}.attn1.to_q"] == ranks["mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"] == 4
    assert ranks[f"{at}.attn2.to_k"] == ranks["down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_v"] == 8
    assert ranks[f"{at}.ff.net.0.proj"] == ranks["down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2"] == 16
    assert len(ranks) == 16 * (4 + 4 + 2)


def test_transformer_is_a_hat_subtransformer() -> None:
    space = preset("iwslt_transformer").space
    configuration = dict.fromkeys(space.names, None) | {
        "encoder_embed_dim": 512,
        "decoder_embed_dim": 640,
        "decoder_layers": 3,
    }
    for i in range(6):
        configuration |= {f"encoder_ffn_dim_{i}": 1024, f"encoder_heads_{i}": 4}
        configuration |= {f"decoder_ffn_dim_{i}": [1024, 1024, 2048, 3072, 3072, 3072][i]}
        configuration |= {f"decoder_self_heads_{i}": 4, f"decoder_cross_heads_{i}": 8}
    # Entries and their order as in the files that HAT publishes for this task.
    assert architecture("iwslt_transformer", space.encode(configuration)) == {
        "encoder-embed-dim-subtransformer": 512,
        "decoder-embed-dim-subtransformer": 640,
        "encoder-ffn-embed-dim-all-subtransformer": [1024] * 6,
        "decoder-ffn-embed-dim-all-subtransformer": [1024, 1024, 2048],
        "encoder-layer-num-subtransformer": 6,
        "decoder-layer-num-subtransformer": 3,
        "encoder-self-attention-heads-all-subtransformer": [4] * 6,
        "decoder-self-attention-heads-all-subtransformer": [4, 4, 4],
        "decoder-ende-attention-heads-all-subtransformer": [8, 8, 8],
        "decoder-arbitrary-ende-attn-all-subtransformer": [-1, -1, -1],
    }


def test_asr_codes_name_8242_different_networks() -> None:
    space = preset("nasbench_asr").space
    assert architecture("nasbench_asr", "115103111") == [[1, 1], [5, 1, 0], [3, 1, 1, 1]]
    assert len({network(architecture("nasbench_asr", code)) for code in space.enumerate()}) == 8_242


def network(nodes: list[list[int]]) -> tuple[Any, ...]:
    """What is left of a cell without ``zero`` and what leads nowhere, the same for equal graphs.

    A vertex is the input (0), an operation (1 to 3) or the output (4); a skip adds an earlier vertex's value to what
    the next vertex reads.
    """
    edges = {(0, 1)}
    for node, (_, *skips) in enumerate(nodes, 1):
        edges |= {(node, node + 1)} | {(state, node + 1) for state, skip in enumerate(skips) if skip}
    zero = {node for node, (operation, *_) in enumerate(nodes, 1) if operation == 5}
    edges = {edge for edge in edges if not zero & set(edge)}
    kept = {vertex for vertex in range(5) if reached(edges, 0, vertex) and reached(edges, vertex, 4)}
    if not kept:
        return ()
    inner = sorted(kept - {0, 4})
    forms = []
    for order in permutations(inner):
        number = {0: 0, 4: 4} | {vertex: i for i, vertex in enumerate(order, 1)}
        labels = tuple(nodes[vertex - 1][0] for vertex in order)
        forms.append((labels, tuple(sorted((number[a], number[b]) for a, b in edges if {a, b} <= kept))))
    return min(forms)


def reached(edges: set[tuple[int, int]], start: int, end: int) -> bool:
    return start == end or any(reached(edges, b, end) for a, b in edges if a == start)


@each
def test_drawings(known: Preset, tmp_path: Path) -> None:
    pictures = set()
    for code in sample(known, 2):
        result = call("presets", known.name, code, "--draw", str(tmp_path / "a.png"))
        assert result.exit_code == 0, result.output
        assert result.stdout.endswith(f"Picture: {tmp_path / 'a.png'}\n")
        pictures.add((tmp_path / "a.png").read_bytes())
    assert len(pictures) == 2
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_the_command_lists_shows_and_decodes() -> None:
    listed = call("presets").stdout
    for name, (positions, _) in SIZES.items():
        assert f"{name} " in listed
        assert f"{positions} positions, " in listed
    assert "13,824 codes" in listed
    assert "10^22.9 codes" in listed
    assert "\n  block31  3, 6, 12, 24\n" in call("presets", "sam_lora").stdout
    assert json.loads(call("presets", "nasbench_asr", "115103111", "--json").stdout) == [
        [1, 1],
        [5, 1, 0],
        [3, 1, 1, 1],
    ]
    assert call("presets", "nasbench_asr", "115103111").stdout == (
        "state 1 = conv5(state 0) + state 0\nstate 2 = zero(state 1) + state 0\n"
        "state 3 = conv7(state 2) + state 0 + state 1 + state 2\n"
    )
    assert "\n    lmsearcher-local presets" in call("presets", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nas",), "there is no preset 'nas'; allowed: nasbench201, "),
        (("darts", "12"), "'12' is not of this space: its codes are 22 digits long"),
        (("nasbench201", "000009"), "Op5 has options 0 to 4, not 9"),
        (("darts", "--json"), "--json and --draw need a NAME and a CODE"),
        (("nasbench201", "000000", "--draw", "no/such/folder.png"), "cannot write no/such/folder.png: No such file"),
        (("nasbench201", "000000", "--draw", "cell.docx"), "cannot draw cell.docx: Format 'docx' is not supported"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("presets", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


@each
def test_a_short_search_with_the_bundled_checkpoint(known: Preset, bundled: Ranker) -> None:
    bundled.check(known.space, 10)
    searcher = Searcher(known.space, bundled, seed=1)
    told = []
    for _ in range(12):
        [code] = searcher.ask()
        assert code in known.space
        assert code not in told
        told.append(code)
        searcher.tell(code, float(sum(known.space.indices(code))))
    assert searcher.best[1] == max(sum(known.space.indices(code)) for code in told)


def test_a_full_history_of_the_longest_codes_is_ranked(bundled: Ranker) -> None:
    known = preset("sd_lora")
    codes = sample(known, 210)
    scores = tuple(float(sum(known.space.indices(code))) for code in codes[10:])
    [ranking] = bundled.rank([Task.of(known.space, History(tuple(codes[10:]), scores), codes[:10])])
    assert sorted(ranking.order()) == sorted(codes[:10])
    assert np.exp(ranking.log_probs).sum() == pytest.approx(1)


def test_a_search_over_a_preset_ends_with_its_architecture(tmp_path: Path) -> None:
    result = call(
        *("search", "--preset", "darts", "--command", "echo 1", "--trials", "1"),
        *("--engine", "transformers", "--out", str(tmp_path / "out")),
    )
    assert result.exit_code == 0, result.output
    assert "Normal cell:\n  2 = " in result.stdout
    assert "Reduction cell:\n  2 = " in result.stdout

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from calib_bench import models
from calib_bench.core.splits import InputSpec
from calib_bench.errors import SettingsError, UserError

DIGITS = InputSpec("image", (1, 8, 8))
CIFAR = InputSpec("image", (3, 32, 32))
IMAGENET = InputSpec("image", (3, 224, 224))
TEXT = InputSpec("tokens", vocabulary=50)

BUILDABLE = [
    ("mlp_16_8", DIGITS),
    ("mlp_16_nobias", InputSpec("vector", (5,))),
    ("cnn_4_8", DIGITS),
    ("cnn_4", CIFAR),
    ("wrn_10_1", DIGITS),
    ("wrn_16_1_nonorm", CIFAR),
    ("airbench_4_8", CIFAR),
    ("gru_8", TEXT),
    ("lstm_8", TEXT),
    ("bag_8", TEXT),
    ("timm/test_resnet", CIFAR),
    ("timm/test_vit", CIFAR),
]


def made(name, spec, classes=10, seed=0, **options):
    torch.manual_seed(seed)
    return models.build(name, spec, classes, **options)


def batch(spec, n=4, seed=0, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    if spec.kind == "tokens":
        lengths = torch.randint(1, 13, (n,), generator=draw)
        lengths[0] = 12
        return torch.randint(spec.vocabulary, (n, 12), generator=draw), lengths
    return torch.randn(n, *spec.shape, generator=draw, dtype=dtype)


def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize(("name", "spec"), BUILDABLE)
def test_shape_determinism_and_float64(name, spec):
    model = made(name, spec, classes=7)
    assert model(batch(spec)).shape == (4, 7)
    assert torch.equal(flat(model), flat(made(name, spec, classes=7)))
    assert not torch.equal(flat(model), flat(made(name, spec, classes=7, seed=1)))
    double = made(name, spec, classes=7).double()
    z = double(batch(spec, dtype=torch.float64))
    assert z.dtype == torch.float64
    torch.testing.assert_close(
        z.float(), model(batch(spec, dtype=torch.float64).float() if spec.shape else batch(spec))
    )


@pytest.mark.parametrize(("name", "spec"), BUILDABLE)
def test_logits_are_of_order_one_at_initialization(name, spec):
    assert 0.05 < made(name, spec)(batch(spec, 64)).std() < 5


@pytest.mark.parametrize(("name", "spec"), BUILDABLE)
def test_nothing_is_dropped_in_training(name, spec):
    model = made(name, spec).train()
    assert torch.equal(model(batch(spec)), model(batch(spec)))


@pytest.mark.parametrize(
    ("name", "spec", "classes", "millions"),
    [
        ("wrn_16_4", CIFAR, 10, 2.75),  # Zagoruyko & Komodakis, table 4 (2.7 M there for CIFAR-10, head included)
        ("wrn_28_10", CIFAR, 10, 36.5),
        ("wrn_40_4", CIFAR, 10, 8.95),
        ("resnet50", IMAGENET, 1000, 25.56),
    ],
)
def test_published_parameter_counts(name, spec, classes, millions):
    with torch.device("meta"):
        count = sum(p.numel() for p in models.build(name, spec, classes).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.005 if millions < 5 else 0.05)


@pytest.mark.parametrize("spec", [InputSpec("image", (1, 8, 8)), InputSpec("image", (3, 30, 17)), IMAGENET])
@pytest.mark.parametrize("name", ["cnn_4", "cnn_4_4_4_4_4", "wrn_10_1_nonorm", "mlp_4", "airbench_4_8"])
def test_any_image_size(name, spec):
    assert made(name, spec, classes=3)(batch(spec, 2)).shape == (2, 3)


def test_channels_last_changes_nothing():
    model, x = made("wrn_10_1", CIFAR).double(), batch(CIFAR, dtype=torch.float64)
    expected = model(x)
    moved = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(moved, expected)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_gathered_state_equals_packed(cell):
    model = made(f"{cell}_8", TEXT).double()
    tokens, lengths = batch(TEXT, 16)
    packed = nn.utils.rnn.pack_padded_sequence(model.embedding(tokens), lengths, batch_first=True, enforce_sorted=False)
    state = model.layer(packed)[1]
    state = state[0] if cell == "lstm" else state
    torch.testing.assert_close(model((tokens, lengths)), model.head(state[-1]))


@pytest.mark.parametrize("name", ["gru_8", "lstm_8", "bag_8"])
def test_padding_is_not_seen(name):
    model = made(name, TEXT).double()
    tokens, lengths = batch(TEXT, 16)
    garbage = torch.where(torch.arange(12) < lengths[:, None], tokens, 49 - tokens)
    longer = F.pad(garbage, (0, 5), value=3)
    torch.testing.assert_close(model((longer, lengths)), model((tokens, lengths)))


def test_bag_is_the_mean_over_real_tokens():
    model = made("bag_8", TEXT).double()
    tokens, lengths = batch(TEXT, 5)
    means = torch.stack([model.embedding.weight[row[:n]].mean(0) for row, n in zip(tokens, lengths, strict=True)])
    torch.testing.assert_close(model((tokens, lengths)), model.head(means))


@pytest.mark.parametrize(("name", "spec"), [pair for pair in BUILDABLE if models.fusable(pair[0])])
def test_fused_equals_each_member(name, spec):
    members = [made(name, spec, seed=seed).double() for seed in range(3)]
    x, y = batch(spec, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    parameters, buffers = stack_module_state(members)
    assert not buffers

    def loss(weights):
        return F.cross_entropy(functional_call(members[0], weights, (x,)), y)

    fused_z = vmap(lambda weights: functional_call(members[0], weights, (x,)))(parameters)
    fused_grad = vmap(grad(loss))(parameters)
    for index, member in enumerate(members):
        torch.testing.assert_close(fused_z[index], member(x))
        F.cross_entropy(member(x), y).backward()
        for key, parameter in member.named_parameters():
            torch.testing.assert_close(fused_grad[key][index], parameter.grad)


def test_fusable_needs_no_norm_and_no_recurrence():
    assert not any(map(models.fusable, ["wrn_16_4", "gru_64", "lstm_64", "timm/resnet50"]))
    assert all(map(models.fusable, ["mlp", "cnn", "wrn_16_4_nonorm", "bag"]))


def test_fixup_starts_as_its_shortcuts_and_trains():
    model = made("wrn_16_1_nonorm", CIFAR)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    y = torch.arange(32) % 10
    x = (
        batch(InputSpec("image", (3, 16, 16)), 32)
        + torch.randn(10, 3, 1, 1, generator=torch.Generator().manual_seed(1))[y]
    )
    h = model.stem(x)
    for block in model.blocks:
        assert not block.conv2.weight.any()
        assert torch.equal(block(h), h if block.shortcut is None else block.shortcut(F.relu(h)))
        h = block(h)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(block.conv2.weight.any() for block in model.blocks)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 10), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_mlp_without_biases_is_homogeneous(scale, widths):
    model = made("mlp_" + "_".join(map(str, widths)) + "_nobias", DIGITS).double()
    x = batch(DIGITS, dtype=torch.float64)
    before = model(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    torch.testing.assert_close(model(x), before * scale ** (len(widths) + 1))


@pytest.mark.parametrize(("name", "spec"), BUILDABLE)
def test_rescaling_the_head_rescales_the_logits(name, spec):
    model = made(name, spec).double().eval()
    x = batch(spec, dtype=torch.float64)
    before = model(x)
    body = {key: p.clone() for key, p in model.named_parameters()}
    models.rescale_head(model, 0.3)
    torch.testing.assert_close(model(x), 0.3 * before)
    inside = {id(p) for p in models.head(model).parameters()}
    assert all(torch.equal(p, body[key]) for key, p in model.named_parameters() if id(p) not in inside)


def test_head_is_found_inside_wrappers():
    model = made("mlp", DIGITS)
    assert models.head(nn.DataParallel(model)) is model.head
    assert models.head(torch.compile(model)) is model.head


def test_a_model_without_a_linear_end_is_an_error():
    with pytest.raises(UserError, match="does not end in a linear layer"):
        models.head(nn.Sequential(nn.Conv2d(1, 1, 1)))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("wrn_15_4", "'wrn_10_4' or 'wrn_16_4'"),
        ("wrn_4_4_nonorm", "wrn_10_4_nonorm"),
        ("mpl", "'mlp_128_128'"),
        ("mlp_0", "mlp"),
        ("mlp_128_", "'mlp_128_128'"),
        ("cnn_x", "cnn"),
        ("gru_64 ", "'gru_64'"),
        ("timm/", "timm/resnet50"),
        ("", "valid choices"),
    ],
)
def test_a_wrong_name_gets_the_nearest(name, says):
    with pytest.raises(SettingsError, match=says):
        models.check(name)


@pytest.mark.parametrize(("name", "kind"), [("cnn", "tokens"), ("gru", "image"), ("wrn_16_4", "vector")])
def test_a_model_for_other_inputs_is_an_error(name, kind):
    with pytest.raises(SettingsError, match=f"of kind {kind}; models for those: "):
        models.check(name, kind)
    with pytest.raises(SettingsError):
        models.build(name, InputSpec(kind, (3, 8, 8), 10), 2)


@pytest.mark.parametrize(("name", "says"), [("resnet5000", "timm/resnet50"), ("resnet50.a1_in2k", "resnet50.a1_in1k")])
def test_timm_names_are_checked_on_building(name, says):
    models.check(f"timm/{name}", "image")
    with pytest.raises(SettingsError, match=says):
        made(f"timm/{name}", CIFAR)


def test_timm_images_of_an_impossible_shape():
    with pytest.raises(UserError, match="cannot be built for images of shape"):
        made("timm/xcit_nano_12_p16_224", InputSpec("image", (3, 30, 30)))


def test_pretrained_weights_need_timm_and_a_source(monkeypatch):
    with pytest.raises(UserError, match="no pretrained weights for model 'mlp'"):
        made("mlp", DIGITS, pretrained=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("CALIB_BENCH_WEIGHTS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/nonexistent")
    with pytest.raises(UserError, match=r"CALIB_BENCH_WEIGHTS/test_resnet\.safetensors"):
        made("timm/test_resnet", CIFAR, pretrained=True)


def test_local_pretrained_weights_keep_their_head_for_their_classes(monkeypatch, tmp_path):
    from safetensors.torch import save_file

    given = made("timm/test_resnet", CIFAR, classes=1000, seed=3)
    save_file(given.state_dict(), tmp_path / "test_resnet.safetensors")
    monkeypatch.setenv("CALIB_BENCH_WEIGHTS", str(tmp_path))
    same = made("timm/test_resnet", CIFAR, classes=1000, pretrained=True)
    assert torch.equal(flat(same), flat(given))
    fewer = made("timm/test_resnet", CIFAR, classes=10, pretrained=True)
    assert models.head(fewer).out_features == 10
    published = given.state_dict()
    assert all(torch.equal(value, published[key]) for key, value in fewer.state_dict().items() if "fc" not in key)


def test_short_names_are_whole_models_and_examples_are_valid():
    for short, full in models.ALIASES.items():
        assert models.canonical(short) == full
        assert torch.equal(flat(made("mlp", DIGITS)), flat(made("mlp_128_128", DIGITS)))
    for name in models.examples():
        models.check(name)
        assert models.canonical(name) == name


def test_checking_a_name_imports_no_torch():
    code = (
        "import sys; from calib_bench import models as m; m.check('wrn_16_4', 'image'); m.fusable('mlp'); m.examples()"
    )
    subprocess.run([sys.executable, "-c", f"{code}; assert not {{'torch', 'timm'}} & set(sys.modules)"], check=True)

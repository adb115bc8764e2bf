"""Training at beta in a loop of one's own: against loops written out here, and in other people's trainers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax

from calib_bench import registry
from calib_bench.errors import SettingsError
from calib_bench.torch import Mixed, at_beta

BETA = 0.3
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01, eps=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, eps=1e-3),
}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).double()


torch.manual_seed(1)
X, Y = torch.randn(40, 6, dtype=torch.float64), torch.randint(3, (40,))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("follow", [None, "head"])
def test_a_plain_loop_makes_the_updates_of_training_at_beta(name: str, follow: str | None) -> None:
    expected, model = net(), net()
    by_hand, optimizer = (OPTIMIZERS[name](one.parameters()) for one in (expected, model))
    training = at_beta(model, optimizer, BETA, follow=follow)
    for _ in range(8):
        for one, loss in ((by_hand, cross_entropy(BETA * expected(X), Y)), (optimizer, training.loss(model(X), Y))):
            one.zero_grad()
            loss.backward()
            one.step()
    assert training.updates == 8
    assert torch.allclose(training.log_proba(model(X)), log_softmax(BETA * expected(X), -1), atol=1e-9)
    factor = BETA if follow == "head" else 1.0
    assert torch.allclose(model[2].weight, factor * expected[2].weight, atol=1e-9)


def test_the_law_sets_every_group() -> None:
    model = net()
    groups = [{"params": model[0].parameters(), "lr": 0.2}, {"params": model[2].parameters(), "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.5, eps=1e-6)
    at_beta(model, optimizer, 0.01, follow="law", degree=2)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([2.0, 1.0])
    assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.0])
    assert optimizer.param_groups[0]["eps"] == pytest.approx(1e-7)
    homogeneous = nn.Sequential(nn.Linear(6, 16, bias=False), nn.ReLU(), nn.Linear(16, 3, bias=False)).double()
    sgd = torch.optim.SGD(homogeneous.parameters(), lr=0.1)
    at_beta(homogeneous, sgd, 0.1, follow="law", x=X)
    assert sgd.param_groups[0]["lr"] == pytest.approx(1.0, rel=1e-3)


def test_label_smoothing_and_the_confidence_penalty_add_up() -> None:
    model = net()
    training = at_beta(model, OPTIMIZERS["sgd"](model.parameters()), BETA, "label_smoothing:0.1+confidence_penalty:0.2")
    logp = log_softmax(BETA * model(X), -1)
    smoothed = cross_entropy(BETA * model(X), Y, label_smoothing=0.1)
    entropy = -(logp.exp() * logp).sum(-1).mean()
    assert training.loss(model(X), Y).item() == pytest.approx((smoothed - 0.2 * entropy).item())


@pytest.mark.parametrize("follow", [None, "head"])
@pytest.mark.parametrize("name", sorted(registry.objectives()))
def test_every_objective_trains(name: str, follow: str | None) -> None:
    objective = registry.objectives()[name]
    model = net()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    strengths = {name: objective.strengths[0]}
    if objective.head and follow:
        with pytest.raises(SettingsError, match="replaces it"):
            at_beta(model, optimizer, BETA, strengths, follow=follow)
        return
    training = at_beta(model, optimizer, BETA, strengths, follow=follow, total_updates=30)
    before = cross_entropy(BETA * model(X), Y).item()
    for _ in range(30):
        x, y = training.mix(X, Y)
        optimizer.zero_grad()
        loss = training.loss(model(x), y)
        loss.backward()
        optimizer.step()
    assert math.isfinite(loss.item())
    assert cross_entropy(training.log_proba(model(X)), Y).item() < before
    trained = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    assert trained == sum(p.numel() for p in model.parameters())


def test_mixed_labels_share_their_losses() -> None:
    model = net()
    training = at_beta(model, OPTIMIZERS["sgd"](model.parameters()), BETA, "mixup:1.0")
    x, y = training.mix(X, Y)
    assert isinstance(y, Mixed)
    z = BETA * model(x)
    expected = y.share * cross_entropy(z, y.y) + (1 - y.share) * cross_entropy(z, y.partner_y)
    assert training.loss(model(x), y).item() == pytest.approx(expected.item())


def test_an_annealed_beta_follows_the_updates() -> None:
    model = net()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    training = at_beta(model, optimizer, BETA, "beta_anneal:1.0", total_updates=2)
    for factor in (10.0, 10**0.5, 1.0):
        assert training.loss(model(X), Y).item() == pytest.approx(cross_entropy(factor * BETA * model(X), Y).item())
        optimizer.step()


def test_what_is_wrong_is_said() -> None:
    model = net()
    sgd = OPTIMIZERS["sgd"](model.parameters())
    for words, message in (
        ({"beta": 0.0}, "positive"),
        ({"beta": "0.1"}, "beta='0.1' is not a positive number"),
        ({"follow": "laws"}, "none of law, head"),
        ({"follow": "law"}, "a batch to measure"),
        ({"objective": "label_smoothin:0.1"}, "did you mean 'label_smoothing'"),
        ({"objective": "label_smoothing"}, "name:strength: such as label_smoothing:0.1"),
        ({"objective": "label"}, "name:strength: did you mean 'label_smoothing'"),
        ({"objective": {"label_smoothing": 2.0}}, "from 0 to 1"),
        ({"objective": {"label_smoothing": "0.1"}}, "is '0.1', and must be from 0 to 1"),
        ({"objective": ["label_smoothing:0.1"]}, "is neither text, such as"),
        ({"objective": "beta_anneal:1.0"}, "total_updates"),
    ):
        with pytest.raises(SettingsError, match=message):
            at_beta(model, sgd, **{"beta": BETA, **words})  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="RMSprop"):
        at_beta(model, torch.optim.RMSprop(model.parameters()), BETA, follow="head")
    headless = nn.Sequential(nn.Linear(6, 3), nn.ReLU())
    of_headless = OPTIMIZERS["sgd"](headless.parameters())
    with pytest.raises(SettingsError, match="give head=LAYER"):
        at_beta(headless, of_headless, BETA, follow="head")
    with pytest.raises(SettingsError, match="none of the model's parameters"):
        at_beta(model, OPTIMIZERS["sgd"](nn.Linear(2, 2).parameters()), BETA)
    with pytest.raises(SettingsError, match="not function"):
        at_beta(net, sgd, BETA)  # type: ignore[arg-type]
    mixing = at_beta(model, sgd, BETA, "mixup:1.0")
    with pytest.raises(SettingsError, match=r"that mix\(x, labels\) returns"):
        mixing.loss(model(X), Y)
    with pytest.raises(SettingsError, match="which Trainer does not"):
        mixing.compute_loss({"logits": model(X)}, Y)
    used = OPTIMIZERS["momentum"](model.parameters())
    cross_entropy(model(X), Y).backward()
    used.step()
    with pytest.raises(SettingsError, match="before the first"):
        at_beta(model, used, BETA, follow="head")


@pytest.mark.parametrize("labels", [Y[:20], Y[:, None], Y.double(), nn.functional.one_hot(Y, 3)])
def test_labels_of_another_shape_or_type_are_refused(labels: torch.Tensor) -> None:
    model = net()
    training = at_beta(model, OPTIMIZERS["sgd"](model.parameters()), BETA)
    with pytest.raises(SettingsError, match=r"whole numbers \[N\] as labels, not \(40, 3\) and"):
        training.loss(model(X), labels)
    with pytest.raises(SettingsError, match="K >= 2 classes"):
        training.loss(model(X)[:, :1], torch.zeros_like(Y))


def test_a_model_follows_beta_once() -> None:
    model = net()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    at_beta(model, optimizer, BETA, follow="law", degree=2)
    with pytest.raises(SettingsError, match="already: make the model and the optimizer anew"):
        at_beta(model, optimizer, BETA, follow="law", degree=2)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / BETA)
    at_beta(model, OPTIMIZERS["sgd"](model.parameters()), BETA, follow="head")
    before = model[2].weight.clone()
    with pytest.raises(SettingsError, match="already"):
        at_beta(model, OPTIMIZERS["sgd"](model.parameters()), BETA, follow="head")
    assert torch.equal(model[2].weight, before)


@pytest.mark.parametrize("follow", ["law", "head"])
def test_a_scheduler_that_would_set_rates_back_is_refused(follow: str) -> None:
    model = net()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    with pytest.raises(SettingsError, match="make it after at_beta"):
        at_beta(model, optimizer, BETA, follow=follow, degree=2)


def test_the_head_is_a_trained_layer_of_the_model() -> None:
    model = net()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    for head in (nn.Linear(16, 3).double(), model[1], nn.Sequential(model[2])):
        with pytest.raises(SettingsError, match="no linear layer of the model"):
            at_beta(model, optimizer, BETA, follow="head", head=head)
    with pytest.raises(SettingsError, match="which the optimizer does not train"):
        at_beta(model, OPTIMIZERS["sgd"](model[0].parameters()), BETA, "cosine_head:10")
    wrong = at_beta(model, optimizer, BETA, follow="head", head=model[0])
    with pytest.raises(SettingsError, match="16 outputs, and logits have 3"):
        wrong.loss(model(X), Y)


class Classifier(nn.Module):
    """A model as transformers has them: a dictionary of logits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net().float()

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {"logits": self.net(x)}


def _by_hand(steps: int) -> nn.Sequential:
    expected = net().float()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(BETA * expected(X.float()), Y).backward()
        optimizer.step()
    return expected


@pytest.mark.slow
def test_the_trainer_of_hugging_face(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="the extra `loops` is not installed")
    transformers = pytest.importorskip("transformers", reason="the extra `loops` is not installed")
    rows: list[dict[str, Any]] = [{"x": x, "labels": y} for x, y in zip(X.float(), Y, strict=True)]
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training = at_beta(model, optimizer, BETA)
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=3, per_device_train_batch_size=20, gradient_accumulation_steps=2, report_to=[],
        max_grad_norm=0.0, use_cpu=True, remove_unused_columns=False, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    trainer = transformers.Trainer(
        model, arguments, train_dataset=rows, compute_loss_func=training.compute_loss, optimizers=(optimizer, scheduler)
    )
    trainer.train()
    assert training.updates == 3
    assert torch.allclose(model.net[2].weight, _by_hand(3)[2].weight, atol=1e-5)


@pytest.mark.slow
def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("pytorch_lightning", reason="the extra `loops` is not installed")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = net().float()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)
            self.training_at_beta = at_beta(self.net, optimizer, BETA)
            return optimizer

        def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
            x, y = batch
            return self.training_at_beta.loss(self.net(x), y)

    module = Module()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X.float(), Y), batch_size=40)
    trainer = lightning.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, loader)
    assert module.training_at_beta.updates == 3
    assert torch.allclose(module.net[2].weight, _by_hand(3)[2].weight, atol=1e-5)

import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from calib_bench import models
from calib_bench.core.splits import InputSpec
from calib_bench.dynamics.curvature import _lanczos, critical_rate, lambda_max
from calib_bench.errors import UserError

VECTOR = InputSpec("vector", (6,))
BETAS = [0.01, 0.1, 1.0, 10.0]


def problem(name="mlp_7", spec=VECTOR, classes=4, n=20, dtype=torch.float64):
    torch.manual_seed(0)
    model = models.build(name, spec, classes).to(dtype)
    if spec.kind == "tokens":
        x = (torch.randint(spec.vocabulary, (n, 9)), torch.randint(1, 10, (n,)))
    else:
        x = torch.randn(n, *spec.shape, dtype=dtype)
    return model, x, torch.randint(classes, (n,))


def dense(model, x, y, beta, head_lr=1.0):
    """D^(1/2) H D^(1/2) [P, P], formed whole by torch, in training mode."""
    names = [name for name, _ in model.named_parameters()]
    values = [p.detach() for p in model.parameters()]
    buffers = {name: b.clone() for name, b in model.named_buffers()}

    def loss(flat):
        pieces = flat.split([v.numel() for v in values])
        weights = {n: piece.view_as(v) for n, piece, v in zip(names, pieces, values, strict=True)}
        return F.cross_entropy(beta * functional_call(model, weights | buffers, (x,)), y)

    hessian = torch.autograd.functional.hessian(loss, torch.cat([v.reshape(-1) for v in values]))
    inside = {id(p) for p in models.head(model).parameters()}
    root = torch.cat([torch.full((p.numel(),), head_lr if id(p) in inside else 1.0) for p in model.parameters()])
    root = root.to(hessian).sqrt()
    return root[:, None] * hessian * root


@pytest.mark.parametrize("head_lr", [1.0, 0.01, 9.0])
@pytest.mark.parametrize("beta", BETAS)
def test_matches_the_dense_hessian(beta, head_lr):
    model, x, y = problem()
    expected = torch.linalg.eigvalsh(dense(model, x, y, beta, head_lr))[-1].item()
    found = lambda_max(model, x, y, beta, head_lr, tol=1e-8)
    assert found.converged
    assert found.residual <= 1e-8
    assert found.value == pytest.approx(expected, rel=1e-7)
    coarse = lambda_max(model, x, y, beta, head_lr)
    assert coarse.converged
    assert coarse.value == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("wrn_10_1", InputSpec("image", (1, 4, 4))),
        ("wrn_10_1_nonorm", InputSpec("image", (1, 4, 4))),
        ("cnn_3_4", InputSpec("image", (1, 8, 8))),
        ("gru_3", InputSpec("tokens", vocabulary=5)),
        ("lstm_3", InputSpec("tokens", vocabulary=5)),
        ("bag_3", InputSpec("tokens", vocabulary=5)),
        ("timm/test_vit", InputSpec("image", (3, 32, 32))),
    ],
)
def test_vector_is_an_eigenvector_for_every_architecture(name, spec):
    """The Rayleigh quotient along power iterates, by finite differences of the gradient, approaches the same value."""
    model, x, y = problem(name, spec, n=8)
    top = lambda_max(model, x, y, 2.0, tol=1e-6)
    assert top.converged
    model.train()
    parameters = list(model.parameters())

    def gradient():
        loss = F.cross_entropy(2.0 * model(x), y)
        return torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)

    def product(v):
        step, sides = 1e-5, []
        for sign in (1, -2):
            with torch.no_grad():
                for p, piece in zip(parameters, v, strict=True):
                    p.add_(sign * step * piece)
            sides.append(gradient())
        with torch.no_grad():
            for p, piece in zip(parameters, v, strict=True):
                p.add_(step * piece)
        return [(up - down) / (2 * step) for up, down in zip(*sides, strict=True)]

    shift = top.value
    v = [torch.randn_like(p) for p in parameters]
    for _ in range(60):
        w = [a + shift * b for a, b in zip(product(v), v, strict=True)]
        norm = torch.sqrt(sum((a * a).sum() for a in w))
        v = [a / norm for a in w]
    assert norm.item() - shift == pytest.approx(top.value, rel=5e-2)


@pytest.mark.parametrize("beta", BETAS)
def test_head_reparametrization_leaves_it_unchanged(beta):
    model, x, y = problem("mlp_7_5")
    direct = lambda_max(model, x, y, beta, tol=1e-9).value
    models.rescale_head(model, beta)
    assert lambda_max(model, x, y, 1.0, head_lr=beta**2, tol=1e-9).value == pytest.approx(direct, rel=1e-8)


def test_scaling_at_zero_logits():
    """With z = 0, lambda_max grows like beta for small beta and like beta^2 for large (first and second term of H)."""
    model, x, y = problem("mlp_16", n=64)
    with torch.no_grad():
        for p in model.head.parameters():
            p.zero_()
    value = {beta: lambda_max(model, x, y, beta, tol=1e-6).value for beta in (0.001, 0.01, 100.0, 1000.0)}
    assert value[0.01] / value[0.001] == pytest.approx(10, rel=0.1)
    assert value[1000.0] / value[100.0] == pytest.approx(100, rel=0.05)


def test_largest_not_largest_in_magnitude():
    matrix = torch.diag(torch.tensor([-50.0, -3.0, 1.0, 2.0], dtype=torch.float64))
    found = _lanczos(lambda v: matrix @ v, torch.ones(4, dtype=torch.float64), 10, 1e-12)
    assert found.converged
    assert found.value == pytest.approx(2.0)


def test_without_reorthogonalization_the_top_stays_right():
    draw = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(300, 300, generator=draw, dtype=torch.float64))[0]
    spectrum = torch.linspace(-1, 1, 300, dtype=torch.float64) ** 3
    matrix = basis * spectrum @ basis.T
    for dtype, tol in ((torch.float32, 1e-4), (torch.float64, 1e-10)):
        start = torch.randn(300, generator=draw, dtype=dtype)
        found = _lanczos(matrix.to(dtype).mv, start, 300, tol)
        assert found.converged
        assert found.value == pytest.approx(1.0, rel=10 * tol)


def test_unconverged_is_reported_and_warned_of():
    model, x, y = problem("mlp_7_5")
    short = lambda_max(model, x, y, 0.1, iterations=3, tol=1e-9)
    assert not short.converged
    assert short.iterations == 3
    assert short.residual > 1e-9
    assert short.value <= lambda_max(model, x, y, 0.1, tol=1e-9).value
    with pytest.warns(UserWarning, match="relative residual"):
        critical_rate(model, x, y, 0.1, iterations=3, tol=1e-9)


def test_state_is_left_alone_and_the_seed_decides():
    model, x, y = problem("wrn_10_1", InputSpec("image", (1, 4, 4)), dtype=torch.float32)
    model.eval()
    model.norm.train()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    torch.manual_seed(5)
    random_state = torch.get_rng_state()
    first, second = (lambda_max(model, x, y, 1.0, seed=3) for _ in range(2))
    assert first == second
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert model.stem.weight.grad is None
    assert torch.equal(torch.get_rng_state(), random_state)
    with torch.no_grad():
        assert lambda_max(torch.compile(model), x, y, 1.0, seed=3) == first


def test_batch_norm_uses_the_batch():
    model, x, y = problem("wrn_10_1", InputSpec("image", (1, 4, 4)))
    before = lambda_max(model, x, y, 1.0)
    model.norm.running_var.fill_(1e6)
    assert lambda_max(model.eval(), x, y, 1.0) == before


def test_gradient_descent_is_stable_below_and_unstable_above():
    """At the optimum of a linear softmax model, small displacements shrink below the critical rate and grow above."""
    torch.manual_seed(0)
    model = nn.Sequential()
    model.head = nn.Linear(3, 3).double()
    x = torch.randn(30, 3, dtype=torch.float64)
    with torch.no_grad():
        y = torch.distributions.Categorical(logits=model(x)).sample()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=500, tolerance_grad=1e-13, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    optimum = [p.detach().clone() for p in model.parameters()]
    rate = critical_rate(model, x, y, 1.0, tol=1e-8)
    for factor, grows in ((0.95, False), (1.05, True)):
        with torch.no_grad():
            for p, best in zip(model.parameters(), optimum, strict=True):
                p.copy_(best + 1e-6 * torch.randn_like(p))
        for _ in range(60):
            gradients = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
            with torch.no_grad():
                for p, g in zip(model.parameters(), gradients, strict=True):
                    p.sub_(factor * rate * g)
        loss = F.cross_entropy(model(x), y)
        top = sum((g * g).sum() for g in torch.autograd.grad(loss, list(model.parameters()))).sqrt().item()
        assert (top > 1e-6) is grows


def test_no_positive_curvature_is_an_error():
    model, x, y = problem()
    with pytest.raises(UserError, match="no critical rate"):
        critical_rate(model, torch.full_like(x, torch.nan), y, 1.0)
    assert not lambda_max(model, torch.full_like(x, torch.nan), y, 1.0).converged
    torch.manual_seed(0)
    frozen = models.build("mlp_4_nobias", VECTOR, 4)
    with pytest.raises(UserError, match="no critical rate"):
        critical_rate(frozen, torch.zeros(8, 6), torch.zeros(8, dtype=torch.int64), 1.0)


@pytest.mark.slow
@pytest.mark.plain
def test_thirty_five_small_models_take_seconds():
    model, x, y = problem("mlp_128_128", InputSpec("image", (1, 8, 8)), 10, 256, torch.float32)
    start = time.perf_counter()
    for beta in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0):
        for seed in range(5):
            assert lambda_max(model, x, y, beta, seed=seed).converged
    assert time.perf_counter() - start < 15

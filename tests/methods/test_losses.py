"""Losses against slow references written here from the formulas, in float64, and gradients against differences."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from openset_distill.augment import Mixed
from openset_distill.methods import METHODS, Batch, losses
from openset_distill.models.heads import HEADS

CLASSES = 5


def logits(batch: int, seed: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(batch, CLASSES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ------------------------------------------------------------------------------- the literal references


def softmax(row: list[float]) -> list[float]:
    exponentials = [math.exp(value) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def pearson(x: list[float], y: list[float]) -> float:
    n = len(x)
    mean_x, mean_y = sum(x) / n, sum(y) / n
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    norms = math.sqrt(sum((a - mean_x) ** 2 for a in x)) * math.sqrt(sum((b - mean_y) ** 2 for b in y))
    return covariance / (norms + 1e-8)


def literal_dist(student: torch.Tensor, teacher: torch.Tensor) -> float:
    """(1 - mean row correlation) + (1 - mean column correlation); nothing for no row, rows alone for one."""
    if len(student) == 0:
        return 0.0
    p, q = [softmax(row) for row in student.tolist()], [softmax(row) for row in teacher.tolist()]
    rows = sum(pearson(a, b) for a, b in zip(p, q, strict=True)) / len(p)
    if len(p) == 1:
        return 1 - rows
    columns = [pearson([row[k] for row in p], [row[k] for row in q]) for k in range(CLASSES)]
    return (1 - rows) + (1 - sum(columns) / CLASSES)


def literal_cross_entropy(student: torch.Tensor, labels: list[int]) -> float:
    if len(labels) == 0:
        return 0.0
    return -sum(math.log(softmax(row)[label]) for row, label in zip(student.tolist(), labels, strict=True)) / len(
        labels
    )


def literal_as_released(s_mixed, t_raw, t_mixed, labels, partner, lam) -> float:
    """The mixed loss of the released code, line by line as the paper's protocol notes state it."""
    n = len(labels)
    t_a, t_b = t_raw, t_raw[partner]
    hard = [i for i in range(n) if int(t_mixed[i].argmax()) not in (int(labels[i]), int(labels[partner[i]]))]
    easy = [i for i in range(n) if i not in hard]
    joint = lam * literal_dist(s_mixed, t_a) + (1 - lam) * literal_dist(s_mixed, t_b)
    distil = literal_dist(s_mixed[easy], t_a[easy])
    y_a, y_b = [int(labels[i]) for i in hard], [int(labels[partner[i]]) for i in hard]
    relabel = lam * literal_cross_entropy(s_mixed[hard], y_a) + (1 - lam) * literal_cross_entropy(s_mixed[hard], y_b)
    return joint + distil + relabel


# ------------------------------------------------------------------------------------------------- DIST


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_dist_is_the_formula(batch):
    student, teacher = logits(batch, 1), logits(batch, 2)
    assert losses.dist(student, teacher).item() == pytest.approx(literal_dist(student, teacher), abs=1e-12)


def test_dist_of_a_network_with_itself_is_zero():
    student = logits(8, 3)
    assert losses.dist(student, student).item() == pytest.approx(0, abs=1e-5)  # the epsilon keeps it above zero


def test_dist_weights_rows_and_columns_as_documented():
    student, teacher = logits(6, 4), logits(6, 5)
    rows = losses.dist(student, teacher, gamma=0).item()
    columns = losses.dist(student, teacher, beta=0).item()
    combined = losses.dist(student, teacher, beta=2.0, gamma=0.5).item()
    assert combined == pytest.approx(2 * rows + 0.5 * columns)
    assert losses.dist(student, teacher, tau=2.0).item() == pytest.approx(4 * literal_dist(student / 2, teacher / 2))


@pytest.mark.parametrize("chosen", [[], [3], [1, 4], [0, 2, 3, 5], [0, 1, 2, 3, 4, 5]])
def test_a_mask_is_the_same_as_selecting(chosen):
    student, teacher = logits(6, 6), logits(6, 7)
    mask = torch.zeros(6, dtype=torch.bool)
    mask[chosen] = True
    expected = literal_dist(student[chosen], teacher[chosen])
    assert losses.dist(student, teacher, mask=mask).item() == pytest.approx(expected, abs=1e-12)


def test_one_weight_for_the_whole_batch_scales_dist():
    student, teacher = logits(6, 8), logits(6, 9)
    weight = torch.full((6,), 0.3, dtype=torch.float64)
    expected = 0.3 * losses.dist(student, teacher).item()
    assert losses.dist(student, teacher, weight=weight).item() == pytest.approx(expected)


def test_no_gradient_reaches_the_teacher():
    student, teacher = logits(4, 10).requires_grad_(), logits(4, 11).requires_grad_()
    losses.dist(student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("mask", [None, [True, False, True, True], [False, True, False, False], [False] * 4])
def test_gradient_of_dist(mask):
    teacher = logits(4, 12)
    mask = None if mask is None else torch.tensor(mask)
    weight = torch.tensor([0.2, 0.9, 0.5, 0.7], dtype=torch.float64)
    student = logits(4, 13, scale=1.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: losses.dist(s, teacher, weight=weight, mask=mask), student)


def test_a_constant_teacher_gives_a_finite_gradient():
    student = logits(4, 14).requires_grad_()
    losses.dist(student, torch.zeros(4, CLASSES, dtype=torch.float64)).backward()
    assert torch.isfinite(student.grad).all()


def quotient_dist(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """DIST in plain tensor operations: covariance by the product of the norms plus 1e-8, rows and columns."""

    def relation(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x, y = x - x.mean(dim=1, keepdim=True), y - y.mean(dim=1, keepdim=True)
        return ((x * y).sum(dim=1) / (x.pow(2).sum(dim=1).sqrt() * y.pow(2).sum(dim=1).sqrt() + 1e-8)).mean()

    p, q = student.softmax(dim=1), teacher.softmax(dim=1)
    return 2 - relation(p, q) - relation(p.T, q.T)


def clamped_dist(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """DIST with an epsilon that bounds each norm: what it must not be."""
    p, q = student.softmax(dim=1), teacher.softmax(dim=1)
    rows = F.cosine_similarity(p - p.mean(dim=1, keepdim=True), q - q.mean(dim=1, keepdim=True), dim=1, eps=1e-8)
    columns = F.cosine_similarity(p - p.mean(dim=0), q - q.mean(dim=0), dim=0, eps=1e-8)
    return 2 - rows.mean() - columns.mean()


def confident_pair(margin: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Student and teacher of 20 classes on a batch of 32 in which six classes are absent, sure by a margin."""
    generator = torch.Generator().manual_seed(int(margin))
    labels = torch.randint(14, (32,), generator=generator)
    student, teacher = torch.randn(2, 32, 20, generator=generator, dtype=torch.float64)
    sure = margin * F.one_hot(labels, 20)
    return (student + 0.8 * sure).to(dtype), (teacher + sure).to(dtype)


def gradient(loss, student: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student, *others), student)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("margin", [2, 6, 9, 12, 14])
def test_the_epsilon_of_dist_is_added_to_the_product_of_the_norms(margin, dtype):
    student, teacher = confident_pair(margin, dtype)
    close = {"rtol": 1e-9, "atol": 1e-12} if dtype is torch.float64 else {"rtol": 2e-4, "atol": 1e-6}
    torch.testing.assert_close(losses.dist(student, teacher), quotient_dist(student, teacher), **close)
    expected = gradient(quotient_dist, student, teacher)
    torch.testing.assert_close(gradient(losses.dist, student, teacher), expected, **close)
    # masked and weighted as well
    mask = torch.arange(32) % 3 > 0
    weight = torch.full((32,), 0.3, dtype=dtype)

    def masked(student, teacher):
        return losses.dist(student, teacher, mask=mask, weight=weight)

    def selected(student, teacher):
        return 0.3 * quotient_dist(student[mask], teacher[mask])

    torch.testing.assert_close(masked(student, teacher), selected(student, teacher), **close)
    expected = gradient(selected, student, teacher)
    torch.testing.assert_close(gradient(masked, student, teacher), expected, **close)


def test_the_epsilon_decides_what_absent_classes_weigh():
    def differ(margin: float) -> float:
        student, teacher = confident_pair(margin, torch.float64)
        right = gradient(losses.dist, student, teacher)
        return ((gradient(clamped_dist, student, teacher) - right).norm() / right.norm()).item()

    assert differ(2) < 1e-3
    assert differ(14) > 1


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_dist_of_a_distribution_is_dist_of_the_logits_that_give_it(tau):
    student, teacher = logits(7, 33), logits(7, 34)
    target = (teacher / tau).softmax(dim=1)
    got = losses.dist_to_target(student, target, tau=tau, beta=0.5)
    assert got.item() == losses.dist(student, teacher, tau=tau, beta=0.5).item()


@pytest.mark.parametrize("smoothing", [0.3, 0.95])
def test_dist_does_not_see_how_sure_the_target_is(smoothing):
    student, target = logits(9, 35), logits(9, 36).softmax(dim=1)
    smoothed = (1 - smoothing) * target + smoothing / CLASSES
    got = losses.dist_to_target(student, smoothed).item()
    assert got == pytest.approx(losses.dist_to_target(student, target).item(), abs=1e-6)


# ------------------------------------------------------------------------------------ the other losses


def test_centred_logit_distance_is_the_formula():
    student, teacher = logits(5, 80), logits(5, 81)
    expected = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        mean_s, mean_t = sum(s) / CLASSES, sum(t) / CLASSES
        expected += sum(((a - mean_s) - (b - mean_t)) ** 2 for a, b in zip(s, t, strict=True)) / CLASSES / 5
    assert losses.centred_logit_distance(student, teacher).item() == pytest.approx(expected)
    assert losses.centred_logit_distance(student + 7, student).item() == pytest.approx(0, abs=1e-12)


def test_half_the_logit_distance_is_kl_at_a_high_temperature():
    student, teacher = logits(5, 82), logits(5, 83)
    kl = losses.kl_distillation(student, teacher, tau=1e4).item()
    assert 0.5 * losses.centred_logit_distance(student, teacher).item() == pytest.approx(kl, rel=1e-3)


def test_gradient_of_the_logit_distance():
    teacher = logits(3, 84)
    student = logits(3, 85).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: losses.centred_logit_distance(s, teacher), student)


def test_smoothed_labels_add_up_the_weights_of_a_class():
    targets, weights = torch.tensor([[0, 1], [2, 2]]), torch.tensor([[0.7, 0.3], [0.6, 0.4]], dtype=torch.float64)
    got = losses.smoothed_labels(targets, weights, CLASSES, smoothing=0.75).tolist()
    assert got[0] == pytest.approx([0.175 + 0.15, 0.075 + 0.15, 0.15, 0.15, 0.15])
    assert got[1] == pytest.approx([0.15, 0.15, 0.25 + 0.15, 0.15, 0.15])


@pytest.mark.parametrize("sources", [2, 4])
def test_enriched_logits_are_the_head_on_the_enriched_feature(sources):
    torch.manual_seed(86)
    head = torch.nn.Linear(6, CLASSES).double()
    raw, mixed = torch.randn(2, 8, 6, dtype=torch.float64)
    index = torch.stack([torch.randperm(8) for _ in range(sources)], dim=1)
    weights = torch.rand(8, sources, dtype=torch.float64)
    weights /= weights.sum(dim=1, keepdim=True)
    expected = head(mixed + sum(weights[:, j, None] * raw[index[:, j]] for j in range(sources)))
    got = losses.enriched_logits(head(mixed), head(raw), index, weights, head.bias)
    torch.testing.assert_close(got, expected)


def test_kl_distillation_is_the_formula():
    student, teacher, tau = logits(5, 15), logits(5, 16), 3.0
    expected = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = softmax([v / tau for v in s]), softmax([v / tau for v in t])
        expected += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True)) / 5
    assert losses.kl_distillation(student, teacher, tau=tau).item() == pytest.approx(tau**2 * expected)


def test_decoupled_distillation_is_the_formula():
    student, teacher, tau = logits(5, 17), logits(5, 18), 2.0
    target = torch.tensor([0, 3, 1, 1, 4])
    tckd = nckd = 0.0
    for s, t, y in zip(student.tolist(), teacher.tolist(), target.tolist(), strict=True):
        p, q = softmax([v / tau for v in s]), softmax([v / tau for v in t])
        tckd += q[y] * math.log(q[y] / p[y]) + (1 - q[y]) * math.log((1 - q[y]) / (1 - p[y]))
        rest = [k for k in range(CLASSES) if k != y]
        nckd += sum(q[k] / (1 - q[y]) * math.log((q[k] / (1 - q[y])) / (p[k] / (1 - p[y]))) for k in rest)
    got = losses.decoupled_distillation(student, teacher, target, alpha=1.5, beta=8.0, tau=tau).item()
    assert got == pytest.approx(tau**2 * (1.5 * tckd + 8 * nckd) / 5)


@pytest.mark.parametrize("smoothing", [0.0, 0.75])
def test_mixed_cross_entropy_equals_soft_targets(smoothing):
    student = logits(6, 19)
    targets = torch.tensor([[0, 1], [2, 2], [3, 0], [4, 1], [1, 0], [2, 3]])
    weights = torch.tensor([[0.7, 0.3]] * 5 + [[1.0, 0.0]], dtype=torch.float64)
    soft = torch.zeros(6, CLASSES, dtype=torch.float64).scatter_add(1, targets, weights)
    expected = F.cross_entropy(student, soft, label_smoothing=smoothing).item()
    assert losses.mixed_cross_entropy(student, targets, weights, smoothing=smoothing).item() == pytest.approx(expected)
    mask = torch.tensor([True, False, False, True, True, False])
    expected = F.cross_entropy(student[mask], soft[mask], label_smoothing=smoothing).item()
    got = losses.mixed_cross_entropy(student, targets, weights, smoothing=smoothing, mask=mask).item()
    assert got == pytest.approx(expected)
    nobody = torch.zeros(6, dtype=torch.bool)
    assert losses.mixed_cross_entropy(student, targets, weights, mask=nobody).item() == 0


def test_hard_samples_are_those_whose_top_class_is_no_source():
    labels = torch.tensor([0, 1, 2, 2])
    sources = torch.tensor([[0, 1], [1, 0], [2, 3], [3, 2]])
    top = torch.tensor([0, 0, 1, 2])  # its own class, its partner's, neither, its own
    assert losses.hard_samples(F.one_hot(top, CLASSES).double(), labels, sources).tolist() == [
        False,
        False,
        True,
        False,
    ]


# --------------------------------------------------------------------------- asymmetric distillation


def teacher_on_mixed(case: str, labels: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
    """Teacher logits whose hard samples are none, one, all or some of the batch."""
    answer = logits(len(labels), 23, scale=1.0)
    hard = {"none": [], "one": [0], "all": range(len(labels)), "some": range(0, len(labels), 2)}[case]
    for i in range(len(labels)):
        own, other = int(labels[i]), int(labels[partner[i]])
        top = next(k for k in range(CLASSES) if k not in (own, other)) if i in hard else own
        answer[i, top] = 10
    return answer


def mixed_batch(batch: int, lam: float, seed: int = 50):
    """labels, partner, sources and weights of a batch in which every sample is mixed with another one."""
    labels = torch.randint(CLASSES, (batch,), generator=torch.Generator().manual_seed(seed))
    partner = torch.arange(batch).roll(1)
    sources = torch.stack([torch.arange(batch), partner], dim=1)
    return labels, partner, sources, torch.tensor([[lam, 1 - lam]] * batch, dtype=torch.float64)


class Answers:
    """A teacher whose answers are given."""

    def __init__(self, raw, mixed):
        self.raw, self.mixed = raw, mixed

    def on_raw(self, batch):
        return self.raw

    def on_mixed(self, batch):
        return self.mixed

    def on_both(self, batch):
        return self.raw, self.mixed


def echo(images):
    """A student whose logits are the images."""
    return images, images


@pytest.mark.parametrize("lam", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("case", ["none", "one", "all", "some"])
@pytest.mark.parametrize("batch", [1, 2, 9])
def test_as_released_is_the_released_loss(batch, case, lam):
    labels = torch.randint(CLASSES, (batch,), generator=torch.Generator().manual_seed(20))
    partner = torch.randperm(batch, generator=torch.Generator().manual_seed(21))
    s_mixed, t_raw = logits(batch, 22), logits(batch, 24)
    t_mixed = teacher_on_mixed(case, labels, partner)
    sources = torch.stack([torch.arange(batch), partner], dim=1)
    weights = torch.tensor([[lam, 1 - lam]] * batch, dtype=torch.float64)
    method = METHODS.build({"name": "asymmetric_distillation", "preset": "as_released"})
    terms, statistics = method.mixed_loss(s_mixed, t_raw, t_mixed, labels, sources, weights)
    expected = literal_as_released(s_mixed, t_raw, t_mixed, labels, partner, lam)
    assert sum(terms.values()).item() == pytest.approx(expected, abs=1e-10)
    hard = {"none": 0, "one": 1, "all": batch, "some": len(range(0, batch, 2))}[case]
    assert statistics["hard_share"].item() == pytest.approx(hard / batch)


def mixed_terms(**settings):
    batch, lam = 6, 0.3
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    partner = torch.tensor([3, 0, 5, 1, 2, 4])
    method = METHODS.build({"name": "asymmetric_distillation", **settings})
    s_mixed, t_raw, t_mixed = logits(batch, 30), logits(batch, 31), teacher_on_mixed("some", labels, partner)
    sources = torch.stack([torch.arange(batch), partner], dim=1)
    weights = torch.tensor([[lam, 1 - lam]] * batch, dtype=torch.float64)
    terms, _ = method.mixed_loss(s_mixed, t_raw, t_mixed, labels, sources, weights)
    easy, hard = [1, 3, 5], [0, 2, 4]
    return terms, s_mixed, t_raw, t_mixed, labels, partner, lam, easy, hard


def test_without_joint_there_is_no_joint_term():
    terms, *_ = mixed_terms(joint=False)
    assert set(terms) == {"easy", "relabel"}


def test_without_relabel_every_sample_is_distilled():
    terms, s, t_raw, *_ = mixed_terms(relabel=False)
    assert set(terms) == {"joint", "easy"}
    assert terms["easy"].item() == pytest.approx(literal_dist(s, t_raw))


def test_a_teacher_that_sees_the_mix_answers_on_the_mix():
    terms, s, _, t_mixed, _, _, _, easy, _ = mixed_terms(teacher_input="mixed")
    assert terms["joint"].item() == pytest.approx(literal_dist(s, t_mixed))
    assert terms["easy"].item() == pytest.approx(literal_dist(s[easy], t_mixed[easy]))


def test_easy_targets():
    terms, s, t_raw, t_mixed, _, partner, lam, easy, _ = mixed_terms(easy_target="mixed")
    assert terms["easy"].item() == pytest.approx(literal_dist(s[easy], t_mixed[easy]))
    terms, *_ = mixed_terms(easy_target="raw_pair")
    t_b = t_raw[partner]
    expected = lam * literal_dist(s[easy], t_raw[easy]) + (1 - lam) * literal_dist(s[easy], t_b[easy])
    assert terms["easy"].item() == pytest.approx(expected)


def test_as_described_smooths_the_two_hot_target_of_hard_samples():
    terms, s, _, _, labels, partner, lam, _, hard = mixed_terms(preset="as_described")
    two_hot = lam * F.one_hot(labels, CLASSES) + (1 - lam) * F.one_hot(labels[partner], CLASSES)
    target = 0.25 * two_hot.double() + 0.75 / CLASSES
    expected = -(target[hard] * s[hard].log_softmax(dim=1)).sum(dim=1).mean().item()
    assert terms["relabel"].item() == pytest.approx(expected)


@pytest.mark.parametrize("lam", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("case", ["none", "one", "all", "some"])
@pytest.mark.parametrize("batch", [1, 2, 9])
def test_as_described_is_the_loss_of_the_papers_words(batch, case, lam):
    labels, partner, sources, weights = mixed_batch(batch, lam)
    images, t_raw = logits(batch, 60), logits(batch, 61)
    s_mixed, t_mixed = logits(batch, 62), teacher_on_mixed(case, labels, partner)
    given = Batch(images, labels, Mixed(s_mixed, sources, weights), 0)
    terms, _ = METHODS.build({"name": "asymmetric_distillation", "preset": "as_described", "alpha": 0.5}).loss(
        echo, Answers(t_raw, t_mixed), given
    )
    hard = [i for i in range(batch) if int(t_mixed[i].argmax()) not in (int(labels[i]), int(labels[partner[i]]))]
    easy = [i for i in range(batch) if i not in hard]
    relabel = 0.0
    for i in hard:
        log_p = [math.log(value) for value in softmax(s_mixed[i].tolist())]
        two_hot = lam * log_p[labels[i]] + (1 - lam) * log_p[labels[partner[i]]]
        relabel -= (0.25 * two_hot + 0.75 * sum(log_p) / CLASSES) / len(hard)
    expected = {
        "label": 0.5 * literal_cross_entropy(images, labels.tolist()),
        "distill": literal_dist(images, t_raw),
        "joint": lam * literal_dist(s_mixed, t_raw) + (1 - lam) * literal_dist(s_mixed, t_raw[partner]),
        "easy": literal_dist(s_mixed[easy], t_mixed[easy]),
        "relabel": relabel,
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("method", ["asymmetric_distillation", "soft_asymmetric_distillation"])
def test_a_raw_batch_is_labelled_and_distilled(method):
    labels, images, answer = torch.tensor([3, 0, 3]), logits(3, 63), logits(3, 64)  # three of five classes are absent
    terms, statistics = METHODS.build({"name": method, "alpha": 2.0}).loss(
        echo, Answers(answer, None), Batch(images, labels, None, 0)
    )
    expected = {"label": 2 * literal_cross_entropy(images, labels.tolist()), "distill": literal_dist(images, answer)}
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected)
    assert not statistics


def test_gradients_of_the_joint_and_of_the_relabel_term():
    labels, _, sources, _ = mixed_batch(3, 0.4)
    weights = torch.tensor([[0.0, 1.0], [0.3, 0.7], [1.0, 0.0]], dtype=torch.float64)
    answers, mask = [logits(3, 65), logits(3, 66)], torch.tensor([True, False, True])

    def joint(student):
        return losses.joint_mutual_information(student, answers, weights, mask=mask, beta=0.5, tau=2.0)

    def relabel(student):
        return losses.mixed_cross_entropy(student, labels[sources], weights, smoothing=0.75, mask=mask)

    for loss in (joint, relabel):
        assert torch.autograd.gradcheck(loss, logits(3, 67, scale=1.0).requires_grad_())


def test_label_term_on_easy_samples_is_an_option():
    assert "mixed_label" not in mixed_terms()[0]
    terms, s, _, _, labels, partner, lam, easy, _ = mixed_terms(mixed_label_weight=2.0)
    own = literal_cross_entropy(s[easy], labels[easy].tolist())
    other = literal_cross_entropy(s[easy], labels[partner][easy].tolist())
    assert terms["mixed_label"].item() == pytest.approx(2 * (lam * own + (1 - lam) * other))


@pytest.mark.parametrize("preset", ["as_released", "as_described"])
@pytest.mark.parametrize("case", ["none", "one", "all"])
def test_gradient_of_the_mixed_loss(preset, case):
    labels, partner = torch.tensor([0, 1, 2]), torch.tensor([2, 0, 1])
    t_raw, t_mixed = logits(3, 40), teacher_on_mixed(case, labels, partner)
    sources = torch.stack([torch.arange(3), partner], dim=1)
    weights = torch.tensor([[0.4, 0.6]] * 3, dtype=torch.float64)
    method = METHODS.build({"name": "asymmetric_distillation", "preset": preset})

    def loss(student):
        return sum(method.mixed_loss(student, t_raw, t_mixed, labels, sources, weights)[0].values())

    assert torch.autograd.gradcheck(loss, logits(3, 41, scale=1.0).requires_grad_())


# ------------------------------------------------------------------------- soft asymmetric distillation


def weighted_pearson(x: list[float], y: list[float], part: list[float]) -> float:
    total = sum(part)
    mean_x, mean_y = (sum(c * v for c, v in zip(part, values, strict=True)) / total for values in (x, y))
    products = [(c, a - mean_x, b - mean_y) for c, a, b in zip(part, x, y, strict=True)]
    norms = math.sqrt(sum(c * a * a for c, a, _ in products)) * math.sqrt(sum(c * b * b for c, _, b in products))
    return sum(c * a * b for c, a, b in products) / (norms + 1e-8)


def literal_soft(s_mixed, t_raw, t_mixed, labels, partner, lam) -> dict[str, float]:
    """The terms of a mixed batch, sample by sample from the words of the method's documentation."""
    n = len(labels)
    pairs = [(int(labels[i]), int(labels[partner[i]])) for i in range(n)]
    part = [sum(softmax(t_mixed[i].tolist())[k] for k in set(pairs[i])) for i in range(n)]
    p, q = [softmax(row) for row in s_mixed.tolist()], [softmax(row) for row in t_mixed.tolist()]
    rows = sum(c * (1 - pearson(a, b)) for c, a, b in zip(part, p, q, strict=True)) / n
    columns = [weighted_pearson([row[k] for row in p], [row[k] for row in q], part) for k in range(CLASSES)]
    relabel = sum(
        (1 - part[i]) * -(lam * math.log(p[i][own]) + (1 - lam) * math.log(p[i][other]))
        for i, (own, other) in enumerate(pairs)
    )
    return {
        "joint": lam * literal_dist(s_mixed, t_raw) + (1 - lam) * literal_dist(s_mixed, t_raw[partner]),
        "easy": rows + (sum(part) / n * (1 - sum(columns) / CLASSES) if n > 1 else 0),
        "relabel": relabel / n,
    }


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("batch", [2, 9])
def test_soft_asymmetric_distillation_is_the_formula(batch, lam):
    labels, partner, sources, weights = mixed_batch(batch, lam)
    s_mixed, t_raw, t_mixed = logits(batch, 51), logits(batch, 52), logits(batch, 53, scale=1.0)
    method = METHODS.build("soft_asymmetric_distillation")
    terms, statistics = method.mixed_loss(s_mixed, t_raw, t_mixed, labels, sources, weights)
    expected = literal_soft(s_mixed, t_raw, t_mixed, labels, partner, lam)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, abs=1e-10)
    assert 0 < statistics["confidence"] < 1


@pytest.mark.parametrize("case", ["none", "one", "all", "some"])
@pytest.mark.parametrize("easy_target", ["mixed", "raw_a", "raw_pair"])
def test_a_teacher_that_is_sure_turns_the_soft_switch_into_the_hard_one(easy_target, case):
    labels, partner, sources, weights = mixed_batch(9, 0.3)
    t_mixed = teacher_on_mixed(case, labels, partner)
    t_mixed += 1e3 * F.one_hot(t_mixed.argmax(dim=1), CLASSES)  # softmax of exactly one and zero
    given = (logits(9, 51), logits(9, 52), t_mixed, labels, sources, weights)
    soft, statistics = METHODS.build({"name": "soft_asymmetric_distillation", "easy_target": easy_target}).mixed_loss(
        *given
    )
    hard, _ = METHODS.build(
        {"name": "asymmetric_distillation", "preset": "as_described", "smoothing": 0, "easy_target": easy_target}
    ).mixed_loss(*given)
    share = losses.hard_samples(t_mixed, labels, sources).double().mean()
    assert statistics["hard_share"].item() == pytest.approx(share.item())
    assert statistics["confidence"].item() == pytest.approx(1 - share.item())
    assert soft["joint"].item() == hard["joint"].item()
    assert soft["easy"].item() == pytest.approx(((1 - share) * hard["easy"]).item(), abs=1e-12)
    assert soft["relabel"].item() == pytest.approx((share * hard["relabel"]).item(), abs=1e-12)


def test_a_label_that_two_sources_share_counts_once():
    teacher = logits(2, 54)
    labels, sources = torch.tensor([1, 1]), torch.tensor([[0, 1], [1, 0]])
    expected = teacher.softmax(dim=1)[:, 1].tolist()
    assert losses.source_confidence(teacher, labels, sources).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("easy_target", ["mixed", "raw_a", "raw_pair"])
def test_gradient_of_the_soft_mixed_loss(easy_target, batch):
    labels, _, sources, weights = mixed_batch(batch, 0.4)
    t_raw, t_mixed = logits(batch, 55), logits(batch, 56, scale=1.0)
    method = METHODS.build({"name": "soft_asymmetric_distillation", "easy_target": easy_target})

    def loss(student):
        return sum(method.mixed_loss(student, t_raw, t_mixed, labels, sources, weights)[0].values())

    assert torch.autograd.gradcheck(loss, logits(batch, 57, scale=1.0).requires_grad_())


# ---------------------------------------------------------------------------------- reciprocal points


def literal_reciprocal_points(features, points, radius, targets, weights, weight) -> dict[str, float]:
    """Both terms, number by number: a logit is the mean squared distance less the inner product."""
    label = margin = 0.0
    for z, labels, shares in zip(features.tolist(), targets.tolist(), weights.tolist(), strict=True):
        distance = [sum((a - b) ** 2 for a, b in zip(z, p, strict=True)) / len(z) for p in points.tolist()]
        inner = [sum(a * b for a, b in zip(z, p, strict=True)) for p in points.tolist()]
        probability = softmax([d - i for d, i in zip(distance, inner, strict=True)])
        for k, share in zip(labels, shares, strict=True):
            label -= share * math.log(probability[k]) / len(features)
            margin += weight * share * max(0.0, distance[k] - radius) / len(features)
    return {"label": label, "margin": margin}


@pytest.mark.parametrize("mixed", [False, True])
def test_arpl_is_the_formula(mixed):
    torch.manual_seed(70)
    head = HEADS["reciprocal_points"](4, CLASSES, True).double()
    head.radius.data.fill_(4.0)
    features = 2 * torch.randn(6, 4, dtype=torch.float64)
    labels, _, sources, weights = mixed_batch(6, 0.3)
    given = Batch(features, labels, Mixed(features, sources, weights) if mixed else None, 0)
    terms, statistics = METHODS.build({"name": "arpl", "weight": 0.5}).loss(
        lambda images: (images, *head(images)), None, given
    )
    targets, shares = (labels[sources], weights) if mixed else (labels[:, None], weights.new_ones(6, 1))
    expected = literal_reciprocal_points(features, head.points, 4.0, targets, shares, 0.5)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, abs=1e-12)
    assert 0 < statistics["outside_share"] < 1
    in_training = head(features)[0]
    assert torch.equal(head.eval()(features), in_training)


def test_gradient_of_arpl():
    torch.manual_seed(71)
    head = HEADS["reciprocal_points"](3, CLASSES, True).double()
    labels, method = torch.tensor([0, 2, 2]), METHODS.build({"name": "arpl", "label_smoothing": 0.1, "tau": 2.0})

    def loss(features, points, radius):
        def student(images):
            return images, *torch.func.functional_call(head, {"points": points, "radius": radius}, images)

        return sum(method.loss(student, None, Batch(features, labels, None, 0))[0].values())

    features = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (features, head.points, head.radius))


# -------------------------------------------------------------------------------------- placeholders


def test_placeholders_are_the_formula():
    torch.manual_seed(73)
    head = HEADS["placeholders"](4, CLASSES, True).double()
    raw, mixed = 2 * torch.randn(2, 6, 4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 3, 2, 0])
    sources, weights = mixed_batch(6, 0.3)[2:]
    given = Batch(raw, labels, Mixed(mixed, sources, weights), 0)
    method = METHODS.build({"name": "placeholders", "beta": 0.5, "gamma": 0.25})
    terms, _ = method.loss(lambda images: (images, *head(images)), None, given)

    def extended(features: torch.Tensor) -> list[list[float]]:
        """Logits of each sample, the largest placeholder last."""
        known, unknown = head.known(features).tolist(), head.unknown(features).tolist()
        return [[*row, max(more)] for row, more in zip(known, unknown, strict=True)]

    label = second = 0.0
    for row, y in zip(extended(raw), labels.tolist(), strict=True):
        label -= math.log(softmax(row)[y]) / 6
        second -= 0.5 * math.log(softmax(row[:y] + row[y + 1 :])[-1]) / 6
    differing = [i for i in range(6) if labels[i] != labels[i - 1]]
    assert len(differing) == 4
    unknown = -0.25 * sum(math.log(softmax(extended(mixed)[i])[-1]) for i in differing) / 4
    expected = {"label": label, "second": second, "mixed": unknown}
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected)
    sum(terms.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    # energy, the score of known images, is the probability of the placeholder in other units
    energy = head.eval()(raw).logsumexp(dim=1)
    assert (-energy).sigmoid().tolist() == pytest.approx([softmax(row)[-1] for row in extended(raw)])


# ------------------------------------------------------------------------ class-wise self-distillation


def test_class_wise_self_distillation_is_the_formula():
    student, labels, tau = logits(6, 72).requires_grad_(), torch.tensor([0, 1, 0, 3, 1, 0]), 2.0
    partner = [2, 4, 5, 3, 1, 0]  # the next of the class, round the batch; 3 is alone
    assert losses.next_of_class(labels).tolist() == partner
    terms, statistics = METHODS.build({"name": "class_wise_self_distillation", "weight": 3.0, "tau": tau}).loss(
        echo, None, Batch(student, labels, None, 0)
    )
    expected = 0.0
    for i, j in enumerate(partner):
        p, q = (softmax([value / tau for value in student[row].tolist()]) for row in (i, j))
        expected += 3 * tau**2 * sum(b * math.log(b / a) for a, b in zip(p, q, strict=True)) / 6
    assert terms["distill"].item() == pytest.approx(expected)
    assert terms["label"].item() == pytest.approx(literal_cross_entropy(student, labels.tolist()))
    assert statistics["paired_share"].item() == pytest.approx(5 / 6)
    terms["distill"].backward()
    assert student.grad[3].abs().max() < 1e-12
    assert student.grad[0].abs().max() > 1e-3

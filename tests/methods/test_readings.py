"""Readings of asymmetric distillation, its controls and relatives, against their formulas sample by sample."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from openset_distill.augment import Mixed
from openset_distill.core.errors import SettingsError
from openset_distill.methods import METHODS, Batch

CLASSES, BATCH = 5, 8
READINGS = ("as_described_ce", "as_described_ce_unsmoothed", "as_described_dist", "as_described_enriched")


def logits(seed: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(BATCH, CLASSES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def relation(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """DIST of two tables of probabilities, from the formula."""

    def mean_correlation(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x, y = x - x.mean(dim=1, keepdim=True), y - y.mean(dim=1, keepdim=True)
        return ((x * y).sum(dim=1) / (x.norm(dim=1) * y.norm(dim=1) + 1e-8)).mean()

    return 2 - mean_correlation(p, q) - mean_correlation(p.T, q.T)


class Case:
    """A mixed batch with hard samples 0, 3 and 6, the logits of student and teacher, and what follows."""

    def __init__(self, lam: float = 0.3, sources: int = 2):
        self.labels = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
        self.sources = torch.stack([torch.arange(BATCH).roll(j) for j in range(sources)], dim=1)
        rest = torch.full((sources - 1,), (1 - lam) / (sources - 1), dtype=torch.float64)
        self.weights = torch.cat([torch.tensor([lam], dtype=torch.float64), rest]).repeat(BATCH, 1)
        self.student_raw, self.student, self.raw = logits(1), logits(2), logits(3)
        self.mixed = logits(4, scale=1.0)
        self.bias = torch.linspace(-1, 1, CLASSES, dtype=torch.float64)
        self.hard = torch.zeros(BATCH, dtype=torch.bool)
        self.hard[[0, 3, 6]] = True
        for i in range(BATCH):
            own = self.labels[self.sources[i]].tolist()
            top = next(k for k in range(CLASSES) if k not in own) if self.hard[i] else own[-1]
            self.mixed[i, top] = 6
        self.two_hot = sum(
            self.weights[:, j, None] * F.one_hot(self.labels[self.sources[:, j]], CLASSES) for j in range(sources)
        )

    def mix(self, values: torch.Tensor) -> torch.Tensor:
        return sum(self.weights[:, j, None] * values[self.sources[:, j]] for j in range(self.sources.shape[1]))

    def mixed_terms(self, **settings) -> dict[str, float]:
        method = METHODS.build({"name": "asymmetric_distillation", **settings})
        terms, _ = method.mixed_loss(
            self.student, self.raw, self.mixed, self.labels, self.sources, self.weights, head_bias=self.bias
        )
        return {name: term.item() for name, term in terms.items()}

    def batch(self) -> Batch:
        """A batch whose images are the student's logits."""
        return Batch(self.student_raw, self.labels, Mixed(self.student, self.sources, self.weights), 0)


class Teacher:
    """A teacher whose logits are given; it notes what it is asked for."""

    def __init__(self, case: Case):
        self.case, self.asked = case, []

    def on_raw(self, batch):
        self.asked.append("raw")
        return self.case.raw

    def on_mixed(self, batch):
        self.asked.append("mixed")
        return self.case.mixed

    def on_both(self, batch):
        return self.on_raw(batch), self.on_mixed(batch)

    @property
    def head_bias(self):
        self.asked.append("bias")
        return self.case.bias


def echo(images):
    """A student whose logits are the images."""
    return images, images


def terms_of(specification, case: Case, batch: Batch | None = None) -> tuple[dict[str, float], Teacher]:
    teacher = Teacher(case)
    terms, _ = METHODS.build(specification).loss(echo, teacher, batch or case.batch())
    return {name: term.item() for name, term in terms.items()}, teacher


# ------------------------------------------------------------------------------------------------ readings


@pytest.mark.parametrize("smoothing", [0.0, 0.75])
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_relabelling_inside_dist_replaces_the_distribution_of_hard_samples(tau, smoothing):
    case = Case()
    terms = case.mixed_terms(preset="as_described_dist", smoothing=smoothing, tau=tau)
    target = (case.mixed / tau).softmax(dim=1)
    for i in torch.nonzero(case.hard).flatten().tolist():
        target[i] = (1 - smoothing) * case.two_hot[i] + smoothing / CLASSES
    assert set(terms) == {"joint", "mixed_distill"}
    expected = tau**2 * relation((case.student / tau).softmax(dim=1), target)
    assert terms["mixed_distill"] == pytest.approx(expected.item())


def test_relabelling_inside_dist_takes_every_easy_target():
    case = Case()
    p, two_hot = case.student.softmax(dim=1), case.two_hot

    def relabelled(teacher_logits: torch.Tensor) -> torch.Tensor:
        return relation(p, torch.where(case.hard[:, None], two_hot, teacher_logits.softmax(dim=1)))

    own, other = (relabelled(case.raw[case.sources[:, j]]) for j in (0, 1))
    expected = {
        "raw_a": own,
        "raw_pair": 0.3 * own + 0.7 * other,
        "mixed": relabelled(case.mixed),
        "enriched": relabelled(case.mixed + case.mix(case.raw) - case.bias),
    }
    for easy_target, value in expected.items():
        terms = case.mixed_terms(easy_target=easy_target, relabel_target="dist")
        assert terms["mixed_distill"] == pytest.approx(value.item()), easy_target


@pytest.mark.parametrize("sources", [2, 4])
def test_the_enriched_target_is_the_easy_samples_alone(sources):
    case = Case(sources=sources)
    terms = case.mixed_terms(easy_target="enriched")
    enriched = (case.mixed + case.mix(case.raw) - case.bias).softmax(dim=1)
    expected = relation(case.student.softmax(dim=1)[~case.hard], enriched[~case.hard])
    assert terms["easy"] == pytest.approx(expected.item())


def test_a_relabel_mean_over_the_batch_counts_every_sample_once():
    case = Case()
    over_hard, over_batch = (case.mixed_terms(preset="as_described_ce", relabel_mean=m) for m in ("hard", "batch"))
    assert over_batch["relabel"] == pytest.approx(over_hard["relabel"] * 3 / BATCH)
    assert {name: over_batch[name] for name in ("joint", "easy")} == {n: over_hard[n] for n in ("joint", "easy")}


def test_the_older_name_of_a_preset_resolves_to_the_same_settings():
    def resolved(preset: str) -> dict:
        return METHODS.resolve({"name": "asymmetric_distillation", "preset": preset})

    assert resolved("as_described") == resolved("as_described_ce")
    settings = resolved("as_described")
    assert (settings["smoothing"], settings["easy_target"], settings["combine"]) == (0.75, "mixed", "add")
    assert (settings["relabel_target"], settings["relabel_mean"], settings["teacher_input"]) == (
        "cross_entropy",
        "hard",
        "raw",
    )
    assert len({str(resolved(preset)) for preset in (*READINGS, "as_released")}) == 5


@pytest.mark.parametrize("preset", ["as_released", *READINGS])
@pytest.mark.parametrize("teacher_input", ["raw", "mixed"])
def test_every_reading_can_show_the_teacher_the_mixed_images(preset, teacher_input):
    case = Case()
    specification = {"name": "asymmetric_distillation", "preset": preset, "teacher_input": teacher_input}
    if preset == "as_described_enriched" and teacher_input == "mixed":
        with pytest.raises(SettingsError, match="easy_target: enriched adds the teacher's features of the raw images"):
            METHODS.build(specification)
        return
    terms, teacher = terms_of(specification, case)
    on = case.mixed if teacher_input == "mixed" else case.raw
    p = case.student.softmax(dim=1)
    sources = [on if teacher_input == "mixed" else on[case.sources[:, j]] for j in (0, 1)]
    joint = sum(w * relation(p, t.softmax(dim=1)) for w, t in zip((0.3, 0.7), sources, strict=True))
    assert terms["joint"] == pytest.approx(joint.item())
    assert ("bias" in teacher.asked) == (preset == "as_described_enriched")


@pytest.mark.parametrize("name", ["asymmetric_distillation", "soft_asymmetric_distillation"])
@pytest.mark.parametrize("easy_target", ["raw_a", "raw_pair", "mixed", "enriched"])
def test_gradients_of_one_dist_over_easy_and_hard_samples(name, easy_target):
    case = Case()
    method = METHODS.build({"name": name, "easy_target": easy_target, "relabel_target": "dist"})

    def loss(student):
        given = (student, case.raw, case.mixed, case.labels, case.sources, case.weights)
        return sum(method.mixed_loss(*given, head_bias=case.bias)[0].values())

    assert torch.autograd.gradcheck(loss, logits(5, scale=1.0).requires_grad_())


# ----------------------------------------------------------------------------------------------- soft DIST


def test_the_soft_target_lies_between_the_teacher_and_the_two_hot():
    case = Case()
    terms, _ = terms_of({"name": "soft_asymmetric_distillation", "preset": "soft_dist"}, case)
    probability = case.mixed.softmax(dim=1)
    target = torch.empty_like(probability)
    for i in range(BATCH):
        own = {int(case.labels[j]) for j in case.sources[i]}
        confidence = sum(float(probability[i, k]) for k in own)
        target[i] = confidence * probability[i] + (1 - confidence) * case.two_hot[i]
    assert set(terms) == {"label", "distill", "joint", "mixed_distill"}
    assert terms["mixed_distill"] == pytest.approx(relation(case.student.softmax(dim=1), target).item())


def test_soft_dist_of_a_sure_teacher_is_relabelling_inside_dist():
    case = Case()
    case.mixed = case.mixed + 1e3 * F.one_hot(case.mixed.argmax(dim=1), CLASSES)
    soft, _ = terms_of({"name": "soft_asymmetric_distillation", "preset": "soft_dist"}, case)
    reading = {"name": "asymmetric_distillation", "preset": "as_described_dist", "smoothing": 0}
    hard, _ = terms_of(reading, case)
    assert soft == pytest.approx(hard)


# ------------------------------------------------------------------------------------------ logit matching


def centred(values: torch.Tensor) -> torch.Tensor:
    return values - values.mean(dim=1, keepdim=True)


def distance(student: torch.Tensor, target: torch.Tensor) -> float:
    return ((centred(student) - centred(target)) ** 2).sum(dim=1).mean().item() / CLASSES


@pytest.mark.parametrize("sources", [2, 4])
@pytest.mark.parametrize("mixed_target", ["symmetric", "asymmetric"])
def test_matched_logits_are_the_formula(mixed_target, sources):
    case = Case(sources=sources)
    terms, teacher = terms_of({"name": "logit_matching", "weight": 0.7, "mixed_target": mixed_target}, case)
    target = case.mixed if mixed_target == "symmetric" else case.mix(case.raw)
    assert terms == pytest.approx(
        {
            "label": F.cross_entropy(case.student_raw, case.labels).item(),
            "distill": 0.7 * distance(case.student_raw, case.raw),
            "mixed_distill": 0.7 * distance(case.student, target),
        }
    )
    # the asymmetric form costs no teacher pass on mixed images
    assert teacher.asked == (["raw", "mixed"] if mixed_target == "symmetric" else ["raw"])


def test_matched_logits_of_a_raw_batch():
    case = Case()
    raw = Batch(case.student_raw, case.labels, None, 0)
    terms, teacher = terms_of({"name": "logit_matching", "mixed_target": "symmetric"}, case, raw)
    assert set(terms) == {"label", "distill"}
    assert teacher.asked == ["raw"]


def test_matched_logits_keep_what_dist_forgets():
    case = Case()
    smaller = Batch(0.1 * case.raw, case.labels, None, 0)
    same = Batch(case.raw, case.labels, None, 0)
    assert terms_of("logit_matching", case, same)[0]["distill"] == pytest.approx(0)
    assert terms_of("logit_matching", case, smaller)[0]["distill"] > 1


# ----------------------------------------------------------------------------------- mixing added to raw


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_with_mixing_added_keeps_the_raw_loss(smoothing):
    case = Case()
    added, _ = terms_of({"name": "cross_entropy", "combine": "add", "label_smoothing": smoothing}, case)
    replaced, _ = terms_of({"name": "cross_entropy", "label_smoothing": smoothing}, case)
    raw = F.cross_entropy(case.student_raw, case.labels, label_smoothing=smoothing).item()
    mixed = F.cross_entropy(case.student, case.two_hot, label_smoothing=smoothing).item()
    assert replaced == pytest.approx({"label": mixed})
    assert added == pytest.approx({"label": raw, "mixed_label": mixed})


# -------------------------------------------------------------------------------- impossible combinations


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "asymmetric_distillation", "relabel_target": "dits"}, "relabel_target: "),
        ({"name": "asymmetric_distillation", "preset": "as_describd"}, "did you mean 'as_described'"),
        ({"name": "asymmetric_distillation", "beta": 0, "gamma": 0}, "beta and gamma are both 0"),
        ({"name": "soft_asymmetric_distillation", "beta": 0, "gamma": 0}, "beta and gamma are both 0"),
        (
            {"name": "asymmetric_distillation", "easy_target": "enriched", "teacher_input": "mixed"},
            "choose easy_target: mixed, or teacher_input: raw",
        ),
        (
            {"name": "soft_asymmetric_distillation", "easy_target": "enriched", "teacher_input": "mixed"},
            "choose easy_target: mixed, or teacher_input: raw",
        ),
        (
            {"name": "asymmetric_distillation", "relabel": False, "relabel_target": "dist"},
            "relabel: false relabels no sample",
        ),
        (
            {"name": "asymmetric_distillation", "relabel": False, "relabel_mean": "batch"},
            "relabel: false relabels no sample",
        ),
        (
            {"name": "asymmetric_distillation", "preset": "as_described_dist", "relabel_mean": "batch"},
            "relabel_mean: batch divides cross entropies",
        ),
        (
            {"name": "asymmetric_distillation", "preset": "as_described_ce", "raw_pass": True},
            "raw_pass: true repeats the raw pass",
        ),
        ({"name": "distillation", "alpha": 0, "weight": 0}, "alpha and weight are both 0"),
        ({"name": "logit_matching", "weight": 0}, "weight: "),
        ({"name": "logit_matching", "mixed_target": "raw"}, "mixed_target: "),
        ({"name": "cross_entropy", "combine": "added"}, "combine: "),
    ],
)
def test_settings_that_contradict_each_other_are_refused_by_name(settings, message):
    with pytest.raises(SettingsError) as error:
        METHODS.build(settings)
    assert message in str(error.value)
    assert settings["name"] in str(error.value)


def test_a_method_says_whether_it_is_about_mixed_images():
    def needs(specification) -> bool:
        return METHODS.build(specification).needs_mixing

    assert all(needs(name) for name in ("asymmetric_distillation", "soft_asymmetric_distillation", "placeholders"))
    assert needs({"name": "cross_entropy", "combine": "add"})
    assert needs({"name": "logit_matching", "mixed_target": "symmetric"})
    assert not any(needs(name) for name in ("cross_entropy", "distillation", "logit_matching", "arpl"))

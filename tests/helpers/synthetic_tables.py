"""Tidy tables of an invented experiment, for the tests of figures and tables. No number here was measured."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

# run: (label, family, accuracy, AUROC, mean maximum logit of knowns)
RUNS: dict[str, tuple[str, str, float, float, float]] = {
    "teacher": ("Teacher (ResNet-50)", "teacher", 0.842, 0.824, 12.4),
    "ce": ("Cross entropy", "cross_entropy", 0.786, 0.786, 10.9),
    "randaugment": ("RandAugment", "ssa", 0.794, 0.793, 11.2),
    "cutout": ("Cutout", "ssa", 0.789, 0.790, 11.0),
    "augmix": ("AugMix", "ssa", 0.791, 0.788, 10.8),
    "mixup": ("Mixup", "msa", 0.797, 0.751, 5.1),
    "cutmix": ("CutMix", "msa", 0.809, 0.758, 5.9),
    "kd": ("Distillation", "distillation", 0.803, 0.799, 11.5),
    "kd_mixed": ("Distillation on CutMix", "distillation", 0.812, 0.772, 7.0),
    "ad_no_relabel": ("AD without relabel", "ablation", 0.815, 0.801, 9.4),
    "ad_no_joint": ("AD without joint loss", "ablation", 0.806, 0.795, 9.0),
    "ad_smoothed": ("AD, smoothing 0.75", "ablation", 0.819, 0.812, 9.8),
    "ad_as_released": ("AD (as released)", "asymmetric", 0.822, 0.817, 10.4),
    "ad_as_described": ("AD (as described)", "asymmetric", 0.826, 0.824, 10.7),
}
HIGHLIGHT = {
    "baseline": "ce",
    "msa": "cutmix",
    "distillation": "kd",
    "asymmetric": ["ad_as_released", "ad_as_described"],
    "ablation": ["kd_mixed", "ad_no_relabel", "ad_no_joint", "ad_smoothed", "ad_as_released", "ad_as_described"],
}
SCORES = {"maximum_logit": 0.0, "energy": -0.002, "msp": -0.021, "feature_norm": -0.035}
CLASSES = ("0", "6", "4", "9", "1", "7")


def context(**changes: object) -> dict[str, object]:
    """A figure context as plain data."""
    return {
        "experiment": "digits",
        "title": "Digits on a laptop",
        "dataset_title": "scikit-learn digits",
        "protocol": "mnist",
        "splits": 5,
        "seeds": 1,
        "scale_note": "scikit-learn digits, not the paper's Tiny-ImageNet",
        "highlight": HIGHLIGHT,
        **changes,
    }


def families() -> dict[str, str]:
    """Run -> family, as the configuration gives it."""
    return {run: row[1] for run, row in RUNS.items()}


def make(
    splits: int = 5,
    seeds: int = 1,
    runs: tuple[str, ...] = tuple(RUNS),
    groups: tuple[str, ...] = ("unknown",),
    classes: tuple[str, ...] = CLASSES,
    twins: tuple[int, ...] = (),
) -> dict[str, pd.DataFrame]:
    """All the tables, the same for the same arguments; the splits `twins` have the same classes."""
    generator = np.random.default_rng(20240803)
    pairs = [(split, seed) for split in range(splits) for seed in range(seeds)]
    runs_table = _runs(generator, runs, pairs, groups)
    tables = {
        "runs": runs_table,
        "summary": _summary(runs_table),
        "history": _history(generator, runs, pairs),
        "curves": _curves(generator, runs, pairs),
        "activations": _activations(generator, runs, pairs),
        "mixing": _mixing(generator, runs, pairs),
        "networks": _networks(runs),
        "embedding": _embedding(generator, runs, pairs, classes),
        "features": _features(generator, runs, pairs),
        "attention": _attention(generator, runs, pairs),
        "pictures": _pictures(generator, pairs, classes),
    }
    for table in tables.values():
        if twins and "split" in table:
            table["class_set"] = ["twins" if split in twins else f"set {split}" for split in table["split"]]
    return tables


def write(folder: Path, tables: Mapping[str, pd.DataFrame]) -> dict[str, Path]:
    """Writes the tables as the workflow does: long form, an empty field for NaN."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.csv" for name in tables}
    for name, table in tables.items():
        table.to_csv(paths[name], index=False)
    return paths


def _identity(run: str) -> dict[str, str]:
    return {"run": run, "label": RUNS[run][0], "family": RUNS[run][1]}


def _networks(runs) -> pd.DataFrame:
    """One run with AD, and one without, are of a lightweight network."""
    parameters = {"resnet50": 23_520_842, "resnet18": 11_173_962, "mobilenet_v2": 2_236_682}
    own = {"teacher": "resnet50", "ad_as_described": "mobilenet_v2"}
    rows = [{**_identity(run), "network": own.get(run, "resnet18")} for run in runs]
    return pd.DataFrame([{**row, "parameters": parameters[row["network"]]} for row in rows])


def _runs(generator, runs, pairs, groups) -> pd.DataFrame:
    rows = []
    hardness = {"easy": 0.04, "medium": 0.0, "hard": -0.06}
    for split, seed in pairs:
        difficulty = generator.normal(0, 0.012)
        for run in runs:
            accuracy = np.clip(RUNS[run][2] + difficulty + generator.normal(0, 0.006), 0, 1)
            area = np.clip(RUNS[run][3] + 0.8 * difficulty + generator.normal(0, 0.006), 0, 1)
            common = {
                "experiment": "digits",
                "dataset": "digits",
                "protocol": "digits",
                "split": split,
                "seed": seed,
                **_identity(run),
            }
            count = {"n_known": 360, "n_unknown": 240}

            def row(score, group, sampling, metric, value, common=common, count=count):
                interval = {"value": value, "low": max(value - 0.02, 0), "high": min(value + 0.02, 1)}
                names = {"score": score, "group": group, "sampling": sampling, "metric": metric}
                rows.append({**common, **names, **interval, **count})

            row("", "known", "full", "accuracy", accuracy)
            for score, shift in SCORES.items():
                for group in dict.fromkeys(("all", *groups)):
                    for sampling, offset in (("full", 0.0), ("balanced", generator.normal(0, 0.003))):
                        a = np.clip(area + shift + offset + hardness.get(group, 0.0), 0, 1)
                        row(score, group, sampling, "auroc", a)
                        row(score, group, sampling, "aupr_known", min(a + 0.05, 1))
                        row(score, group, sampling, "aupr_unknown", a - 0.07)
                        row(score, group, sampling, "fpr95", min(1.42 - a, 1) - 0.05)
                        row(score, group, sampling, "oscr", a * accuracy)
                        row(score, group, sampling, "openauc", a * accuracy + 0.004)
    return pd.DataFrame(rows)


def _summary(runs: pd.DataFrame) -> pd.DataFrame:
    keys = ["experiment", "dataset", "protocol", "run", "label", "family", "score", "group", "sampling", "metric"]
    baseline = runs[runs["run"] == "ce"]
    on = ["split", "seed", "score", "group", "sampling", "metric"]
    paired = runs.merge(baseline[[*on, "value"]], on=on, how="left", suffixes=("", "_baseline"))
    paired["gain"] = paired["value"] - paired["value_baseline"]
    rows = []
    for key, part in paired.groupby(keys, sort=False):
        n = len(part)
        gain, spread = part["gain"].mean(), part["gain"].std() / np.sqrt(n)
        own = key[3] == "ce" or "ce" not in set(runs["run"])
        statistics = {
            "n": n,
            "mean": part["value"].mean(),
            "std": part["value"].std(),
            "baseline": "ce",
            "difference": np.nan if own else gain,
            "difference_low": np.nan if own else gain - 2.776 * spread,
            "difference_high": np.nan if own else gain + 2.776 * spread,
            "effect_size": np.nan if own or n < 2 else gain / part["gain"].std(),
            "p_value": np.nan,
        }
        rows.append({**dict(zip(keys, key, strict=True)), **statistics})
    return pd.DataFrame(rows)


def _history(generator, runs, pairs, epochs: int = 60) -> pd.DataFrame:
    rows = []
    for split, seed in pairs:
        for run in runs:
            _, family, accuracy, *_ = RUNS[run]
            floor = {"msa": 0.7, "asymmetric": 0.25, "ablation": 0.25, "distillation": 0.15}.get(family, 0.03)
            has_hard = family in ("asymmetric", "ablation")
            for epoch in range(1, epochs + 1):
                step = 1.0 if epoch < 30 else 0.45
                decay = np.exp(-epoch / 9)
                rows.append(
                    {
                        "split": split,
                        "seed": seed,
                        **_identity(run),
                        "epoch": epoch,
                        "train_loss": floor * step + 1.9 * decay + abs(generator.normal(0, 0.02)),
                        "validation_accuracy": accuracy - 0.6 * decay - 0.06 * step + generator.normal(0, 0.008),
                        "learning_rate": 0.1 * (1.0 if epoch < 30 else 0.2),
                        "hard_share": 0.12 + 0.2 * decay + generator.normal(0, 0.01) if has_hard else np.nan,
                        "loss_joint": floor if has_hard else np.nan,
                    }
                )
    return pd.DataFrame(rows)


def _curves(generator, runs, pairs) -> pd.DataFrame:
    grid = np.linspace(0, 1, 101)
    parts = []
    for split, seed in pairs:
        for run in runs:
            _, _, accuracy, area, _ = RUNS[run]
            # y = x ** ((1 - area) / area) has exactly this area under it
            a = np.clip(area + generator.normal(0, 0.012), 0.5, 0.99)
            roc = grid ** ((1 - a) / a)
            for curve, y in (("roc", roc), ("oscr", roc * accuracy)):
                parts.append(
                    pd.DataFrame({**_identity(run), "split": split, "seed": seed, "curve": curve, "x": grid, "y": y})
                )
    return pd.concat(parts, ignore_index=True)


def _activations(generator, runs, pairs, count: int = 200) -> pd.DataFrame:
    parts = []
    for split, seed in pairs:
        for run in runs:
            level = RUNS[run][4]
            gap = 2.0 * level * (RUNS[run][3] - 0.5)
            for known, mean in ((1, level), (0, level - gap)):
                logit = mean + level * 0.22 * generator.standard_normal(count)
                norm = np.abs(1.4 * logit + generator.normal(0, 0.12 * level, count)) + 1
                parts.append(
                    pd.DataFrame(
                        {
                            **_identity(run),
                            "split": split,
                            "seed": seed,
                            "known": known,
                            "maximum_logit": logit,
                            "feature_norm": norm,
                        }
                    )
                )
    return pd.concat(parts, ignore_index=True)


def _mixing(generator, runs, pairs) -> pd.DataFrame:
    rows = []
    lams = np.linspace(0, 1, 11)
    teacher = {"run": "teacher", "label": "Teacher (ResNet-50)", "family": "teacher"}
    for split, seed in pairs:
        for mixing, depth in (("mixup", 1.0), ("cutmix", 0.75)):
            dip = 4 * lams * (1 - lams) * depth
            for lam, d in zip(lams, dip, strict=True):
                place = {"split": split, "seed": seed, "mixing": mixing, "lam": lam}
                values = {"teacher_confidence": 0.93 - 0.42 * d, "hard_share": 0.05 + 0.27 * d}
                for quantity, value in values.items():
                    noisy = value + generator.normal(0, 0.008)
                    rows.append({**teacher, **place, "quantity": quantity, "value": noisy})
                for run in runs:
                    if run == "teacher":
                        continue
                    level = RUNS[run][4] * (1 - 0.45 * d) + generator.normal(0, 0.1)
                    for quantity, value in (("maximum_logit", level), ("feature_norm", 1.4 * level + 1)):
                        rows.append({**_identity(run), **place, "quantity": quantity, "value": value})
    columns = ["run", "label", "family", "split", "seed", "mixing", "lam", "quantity", "value"]
    return pd.DataFrame(rows)[columns]


def _embedding(generator, runs, pairs, classes, count: int = 45) -> pd.DataFrame:
    parts = []
    for split, seed in pairs[:1]:
        for run in runs:
            spread = 14.0 if RUNS[run][1] == "msa" else 8.5
            angles = np.linspace(0, 2 * np.pi, len(classes), endpoint=False)
            for name, angle in zip(classes, angles, strict=True):
                centre = 38 * np.array([np.cos(angle), np.sin(angle)]) * (0.65 + 0.35 * (len(parts) % 2))
                points = centre + spread * generator.standard_normal((count, 2))
                parts.append(
                    pd.DataFrame(
                        {
                            **_identity(run),
                            "split": split,
                            "seed": seed,
                            "x": points[:, 0],
                            "y": points[:, 1],
                            "class": name,
                        }
                    )
                )
            points = 20 * generator.standard_normal((4 * count, 2))
            place = {"split": split, "seed": seed, "x": points[:, 0], "y": points[:, 1], "class": "unknown"}
            parts.append(pd.DataFrame({**_identity(run), **place}))
    return pd.concat(parts, ignore_index=True)


def _features(generator, runs, pairs) -> pd.DataFrame:
    rows = []
    for split, seed in pairs:
        for run in runs:
            level, area = RUNS[run][4], RUNS[run][3]
            values = {
                ("feature_norm_mean", "known"): 1.4 * level + 1,
                ("feature_norm_mean", "unknown"): 2.2 * level * (1 - area) + 4,
                ("maximum_logit_mean", "known"): level,
                ("maximum_logit_mean", "unknown"): level * (3 - 3 * area),
                ("effective_rank", "known"): 30 - level,
                ("effective_rank", "unknown"): 34 - level,
                ("silhouette", "known"): area - 0.4,
                ("nc1", "known"): 40 / level**1.5,
                ("nc4", "known"): 0.2,
            }
            if run != "teacher":
                values["cka_teacher", "known"] = area
                values["cka_teacher", "all"] = area - 0.1
            for (quantity, group), value in values.items():
                noisy = value * np.exp(generator.normal(0, 0.04))
                place = {"split": split, "seed": seed, "quantity": quantity, "group": group}
                rows.append({**_identity(run), **place, "value": noisy})
    return pd.DataFrame(rows)


def _picture(pixels) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode()


def _attention(generator, runs, pairs, count: int = 40, shown: int = 4, side: int = 16) -> pd.DataFrame:
    rows = []
    split, seed = pairs[0]
    areas = generator.uniform(0.15, 0.7, count)
    for run in runs:
        for view, number in (("a", shown), ("b", shown), ("mixed", count)):
            for pair in range(number):
                if view == "mixed":
                    predicted = generator.choice(["a", "b", "neither"], p=[0.5, 0.3, 0.2])
                    shares = {"area_b": areas[pair], "on_b": np.clip(areas[pair] + generator.normal(0, 0.1), 0, 1)}
                else:
                    predicted, shares = view, {"area_b": np.nan, "on_b": np.nan}
                y, x = np.mgrid[:side, :side] - generator.uniform(4, side - 4, 2)[:, None, None]
                heat = _picture(255 * np.exp(-(x**2 + y**2) / 20)) if pair < shown else ""
                place = {"split": split, "seed": seed, "pair": pair, "view": view, "predicted": predicted}
                rows.append({**_identity(run), **place, **shares, "map": heat})
    return pd.DataFrame(rows)


def _pictures(generator, pairs, classes, shown: int = 4, side: int = 16) -> pd.DataFrame:
    rows = []
    split, seed = pairs[0]
    for pair in range(shown):
        one, other = generator.integers(0, 256, (2, 4, 4, 3)).repeat(side // 4, axis=1).repeat(side // 4, axis=2)
        pasted = np.zeros((side, side), dtype=bool)
        pasted[2 + pair : 9 + pair, 5:13] = True
        mixed = np.where(pasted[:, :, None], other, one)
        views = {"a": one, "b": other, "mixed": mixed, "pasted": 255 * pasted}
        for view, pixels in views.items():
            name = {"a": classes[0], "b": ("n04179913", "African elephant", *classes)[pair]}.get(view, "")
            place = {"split": split, "seed": seed, "pair": pair, "view": view, "class": name}
            rows.append({**place, "picture": _picture(pixels)})
    return pd.DataFrame(rows)

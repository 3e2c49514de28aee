"""CAMELYON17: the pN stage of patients from their lymph nodes, by quadratic weighted kappa.

Bandi et al., "From detection of individual metastases to classification of lymph node status at the patient level: the
CAMELYON17 challenge", IEEE Trans Med Imaging 2019. The rules are the challenge's simplified TNM staging.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.core.results import Score
from medvision.evaluations.base import Evaluation, Published, register
from medvision.metrics.agreement import confusion, quadratic_kappa
from medvision.metrics.ranking import bootstrap_interval
from medvision.store.tables import read_table

Counts = npt.NDArray[np.int64]

NODES = ("negative", "itc", "micro", "macro")
STAGES = ("pN0", "pN0(i+)", "pN1mi", "pN1", "pN2")
PUBLISHED = (
    Published("Best entry at the challenge, 2017", {"kappa": 0.89}, "IEEE Trans Med Imaging 2019;38(2):550"),
    Published("Best entry after it", {"kappa": 0.93}, "camelyon17.grand-challenge.org"),
    Published("PFA-ScanNet 2019", {"kappa": 0.905}, "MICCAI 2019"),
)
FEW_PATIENTS = 30
_MOST_NODES = 9
_NODE = re.compile(r"(?P<patient>.+)_node_(?P<node>\w+?)(?:\.tiff?)?", re.IGNORECASE)
_PATIENT = re.compile(r"(?P<patient>.+?)(?:\.zip)?", re.IGNORECASE)


@dataclass(eq=False)
class Patient:
    """What a file says about one patient: the stage in its own row, if there is one, and each node's label."""

    name: str
    given_stage: str | None = None
    nodes: dict[str, str] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        """The stage as given, else by the rule from the nodes.

        Raises:
            UsageError: naming the patient, where the rule gives none.
        """
        return self.given_stage or self.stage_by_nodes

    @property
    def stage_by_nodes(self) -> str:
        """The stage by the rule from the nodes; raises as `stage`."""
        try:
            return stage_of(list(self.nodes.values()))
        except UsageError as error:
            raise UsageError(f"{self.name}: {error}") from error


@dataclass(frozen=True, slots=True)
class PatientScore:
    """One patient: the two stages, and the nodes' labels in order of name where both files have them."""

    patient: str
    reference: str
    predicted: str
    reference_nodes: tuple[str, ...]
    predicted_nodes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Camelyon17Result:
    """The figures. Tables have the reference in rows; `nodes` and `node_kappa` are None without labels of nodes."""

    kappa: Score
    stages: Counts
    node_kappa: Score | None
    nodes: Counts | None
    patients: tuple[PatientScore, ...]
    notes: tuple[str, ...]
    resamples: int
    seed: int


def stage_of(nodes: Sequence[str]) -> str:
    """pN stage of a patient by the challenge's rule; isolated tumour cells are no metastasis.

    pN0: nothing; pN0(i+): isolated tumour cells only; pN1mi: micro-, but no macrometastasis; pN1: 1 to 3 nodes with a
    metastasis, at least one of them a macrometastasis; pN2: 4 to 9 such nodes.

    Raises:
        UsageError: without any node, for an unknown label, or beyond 9 nodes with metastases.

    >>> stage_of(["negative", "itc", "micro", "macro", "macro"])
    'pN1'
    """
    strangers = sorted(set(nodes) - set(NODES))
    if strangers or not nodes:
        raise UsageError(
            f"a stage needs nodes of the classes {', '.join(NODES)}; got {', '.join(strangers) or 'none'}"
        )
    metastases = sum(label in ("micro", "macro") for label in nodes)
    if metastases > _MOST_NODES:
        raise UsageError(f"{metastases} nodes with metastases: the challenge's stages end at {_MOST_NODES}")
    if "macro" in nodes:
        return "pN1" if metastases <= 3 else "pN2"
    if metastases:
        return "pN1mi"
    return "pN0(i+)" if "itc" in nodes else "pN0"


def evaluate(predictions: Path, reference: Path, resamples: int = 1000, seed: int = 0) -> Camelyon17Result:
    """Score a table of predictions against the reference, both in the challenge's layout.

    A row names a patient (`patient_017.zip`) with a stage, or one of its nodes (`patient_017_node_2.tif`) with a label,
    in the columns patient, stage. A patient's own row counts, as in the official script; without one the stage follows
    from the nodes.

    Args:
        predictions: CSV.
        reference: CSV.
        resamples: bootstrap draws of patients for the 95% intervals.
        seed: equal seeds give equal intervals.

    Raises:
        UsageError: for an unknown stage or label, a name that comes twice, patients or nodes that only one of the files
            knows, or stages that have no kappa.
    """
    known, given = read_patients(reference), read_patients(predictions)
    for path, missing in (
        (predictions, known.keys() - given.keys()),
        (reference, given.keys() - known.keys()),
    ):
        if missing:
            raise UsageError(f"{path}: lacks patients {', '.join(sorted(missing))}, which the other file has")
    names = sorted(known)
    notes = _disagreements(predictions, given) + _disagreements(reference, known)
    with_nodes = all(known[name].nodes and given[name].nodes for name in names)
    if with_nodes:
        _check_nodes(predictions, given, known)
    else:
        notes.append("no confusion table of nodes: not every patient has node labels in both files")
    patients = tuple(_score(known[name], given[name], with_nodes) for name in names)
    truth, said = [p.reference for p in patients], [p.predicted for p in patients]
    owners = np.arange(len(names))
    kappa, more = _kappa("patient kappa", truth, said, STAGES, owners, resamples, seed)
    notes += more
    nodes = node_kappa = None
    if with_nodes:
        truth_nodes = [label for p in patients for label in p.reference_nodes]
        said_nodes = [label for p in patients for label in p.predicted_nodes]
        nodes = confusion(truth_nodes, said_nodes, NODES)
        owners = np.repeat(owners, [len(p.reference_nodes) for p in patients])
        try:
            node_kappa, more = _kappa("node kappa", truth_nodes, said_nodes, NODES, owners, resamples, seed)
            notes += more
        except UsageError as error:
            notes.append(f"no kappa of nodes: {error}")
    if len(names) < FEW_PATIENTS:
        notes.append(f"{len(names)} patients are too few for an interval to say much")
    table = confusion(truth, said, STAGES)
    return Camelyon17Result(kappa, table, node_kappa, nodes, patients, tuple(notes), resamples, seed)


def read_patients(path: Path) -> dict[str, Patient]:
    """Patients of a table in the challenge's layout, by name.

    Raises:
        UsageError: as `evaluate`, naming file and line.
    """
    patients: dict[str, Patient] = {}
    for line, row in read_table(path, ("patient", "stage")).rows:
        name, label = row["patient"], row["stage"]
        node = _NODE.fullmatch(name)
        found = node or _PATIENT.fullmatch(name)
        if found is None:
            raise UsageError(f"{path}, line {line}: no name of a patient or node")
        patient = patients.setdefault(found["patient"].lower(), Patient(found["patient"].lower()))
        choices = NODES if node else STAGES
        exact = next((choice for choice in choices if choice.lower() == label.lower()), None)
        if exact is None:
            what = "node" if node else "patient"
            raise UsageError(
                f"{path}, line {line}: {label!r} of {name!r}; a {what} is one of {', '.join(choices)}"
            )
        if (node["node"] in patient.nodes) if node else (patient.given_stage is not None):
            raise UsageError(f"{path}, line {line}: {name!r} for the second time")
        if node:
            patient.nodes[node["node"]] = exact
        else:
            patient.given_stage = exact
    return patients


def _disagreements(path: Path, patients: dict[str, Patient]) -> list[str]:
    """Says for how many patients the stage in their row is not the one that their nodes give."""
    differ = [
        p.name for p in patients.values() if p.given_stage and p.nodes and p.given_stage != p.stage_by_nodes
    ]
    if not differ:
        return []
    return [
        f"{path.name}: the stage of {', '.join(differ)} is not that of the nodes; the stage as given counts"
    ]


def _check_nodes(path: Path, given: dict[str, Patient], known: dict[str, Patient]) -> None:
    for name, patient in known.items():
        if differ := patient.nodes.keys() ^ given[name].nodes.keys():
            listed = ", ".join(f"{name}_node_{node}" for node in sorted(differ))
            raise UsageError(f"{path}: {listed} must be in both files or in neither")


def _score(known: Patient, given: Patient, with_nodes: bool) -> PatientScore:
    order = sorted(known.nodes) if with_nodes else []
    return PatientScore(
        known.name,
        known.stage,
        given.stage,
        tuple(known.nodes[node] for node in order),
        tuple(given.nodes[node] for node in order),
    )


def _kappa(
    name: str,
    reference: Sequence[str],
    predicted: Sequence[str],
    classes: tuple[str, ...],
    owners: npt.NDArray[np.int64],
    resamples: int,
    seed: int,
) -> tuple[Score, list[str]]:
    """Quadratic weighted kappa with the interval over whole patients, or the note why there is none."""

    def statistic(truth: npt.NDArray[np.str_], said: npt.NDArray[np.str_]) -> float:
        return quadratic_kappa(confusion(truth.tolist(), said.tolist(), classes))

    arrays = np.array(reference), np.array(predicted)
    interval, notes = None, []
    try:
        interval = (
            bootstrap_interval(statistic, *arrays, n=resamples, seed=seed, groups=owners)
            if resamples
            else None
        )
    except UsageError as error:
        notes.append(f"no interval of the {name}: {error}")
    value = statistic(*arrays)
    return Score(name, value, interval, "CAMELYON17, quadratic weighted kappa", len(reference)), notes


register(
    Evaluation(
        name="camelyon17",
        title="CAMELYON17: pN stage of patients",
        paper="Bandi et al., IEEE Trans Med Imaging 2019;38(2):550-560",
        data="CAMELYON17 (CC0); the published figures are for its 100 test patients of 5 nodes each",
        predictions="CSV with the columns patient, stage: patients' stages, nodes' labels, or both",
        reference="CSV of the same layout, such as the challenge's stage_labels.csv",
        published=PUBLISHED,
        evaluate=evaluate,
    )
)

"""All faults that are planted, and all subjects that they are tried on."""

from __future__ import annotations

import faults_of_files
import faults_of_passes
import faults_of_rules
import faults_of_surgery
import faults_of_weights
import small_models_of_files  # noqa: F401  these enter subjects
import small_models_of_passes  # noqa: F401
import small_models_of_weights  # noqa: F401
import small_operators  # noqa: F401
import small_operators_of_runtimes  # noqa: F401
from planted import Fault
from small_models import SUBJECTS

__all__ = ["FAULTS", "LAYERS", "SUBJECTS"]

LAYERS: dict[str, list[Fault]] = {
    "surgery": faults_of_surgery.SURGERY,
    "plan": faults_of_surgery.PLANS,
    "analysis": faults_of_surgery.ANALYSIS,
    "proof": faults_of_surgery.VERIFIERS,
    "fold": faults_of_passes.FOLD,
    "computed-shapes": faults_of_passes.SHAPES,
    "fuse-bn": faults_of_passes.FUSE,
    "scales": faults_of_passes.SCALES,
    "fold-redundant": faults_of_passes.REDUNDANT,
    "rotate-streams": faults_of_passes.ROTATE,
    "rotate-heads": faults_of_passes.HEADS,
    "lower-norms": faults_of_passes.LOWER,
    "share-rows": faults_of_passes.SHARE,
    "compensate": faults_of_passes.REFIT,
    "fits": faults_of_passes.FITS,
    "eliminate": faults_of_weights.ELIMINATE,
    "masks": faults_of_weights.MASKS,
    "sparse": faults_of_weights.SPARSE,
    "factors": faults_of_weights.FACTORS,
    "loader": faults_of_files.LOADING,
    "writer": faults_of_files.WRITING,
    "read-back": faults_of_files.READ_BACK,
    "rules": faults_of_rules.RULES,
}

FAULTS = [fault for faults in LAYERS.values() for fault in faults]

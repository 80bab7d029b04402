"""A process that loads a model does not load scikit-learn, and transformers is left as it was."""

import subprocess
import sys

from reproduce.plan import ROOT

CODE = """
import sys
import lmmr1.policy
assert "transformers.generation.candidate_generator" in sys.modules
assert "sklearn" not in sys.modules
from transformers import utils
from transformers.utils import import_utils
assert utils.is_sklearn_available is import_utils.is_sklearn_available and utils.is_sklearn_available()
"""


def test_a_model_is_imported_without_scikit_learn():
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]

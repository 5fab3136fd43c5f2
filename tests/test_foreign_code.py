"""Nothing of ours runs what it reads: no pickles, no code from model folders, no shell, and no hub behind its back."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("portal", "datasets_app", "experiments", "deployments", "gpu_worker")
RUN_WHAT_THEY_READ = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve")
LOADERS = {
    "torch.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "numpy.load",
    "np.load",
    "pandas.read_pickle",
}


def faults(tree: ast.AST) -> Iterator[str]:
    """Tell what in a file could run foreign code, or fetch it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"{node.lineno}: imports {name}" for name in names if name.split(".")[0] in RUN_WHAT_THEY_READ)
        elif isinstance(node, ast.Call):
            yield from (f"{node.lineno}: {fault}" for fault in faults_of_call(node))


def faults_of_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    given = {one.arg: one.value for one in call.keywords if one.arg}
    if name in LOADERS or name in ("eval", "exec", "compile", "__import__"):
        yield f"calls {name}"
    for word in ("shell", "trust_remote_code", "allow_pickle"):
        if word in given and not is_constant(given[word], False):
            yield f"{name} with {word}"
    owner, _, method = name.rpartition(".")
    if method == "from_pretrained" and owner.startswith("Auto"):
        for word in ("local_files_only", "use_safetensors") if "Model" in owner else ("local_files_only",):
            if not is_constant(given.get(word), True):
                yield f"{name} without {word}=True"


def is_constant(node: ast.AST | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_runs_what_it_reads(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = {
        f"{file.relative_to(ROOT)}:{fault}"
        for file in files
        for fault in faults(ast.parse(file.read_text(encoding="utf-8")))
    }
    assert found == set()


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path, weights_only=True)",
        "numpy.load(path)",
        "yaml.load(text, Loader)",
        "eval(text)",
        "subprocess.run(line, shell=True)",
        "AutoModelForCausalLM.from_pretrained(path, local_files_only=True)",
        "AutoModelForCausalLM.from_pretrained(path, local_files_only=False, use_safetensors=True)",
        "AutoTokenizer.from_pretrained(path)",
        "AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=chosen)",
    ],
)
def test_what_could_is_found(line):
    assert list(faults(ast.parse(line)))

"""The README.md of a dataset: metadata, and a part that hfsynth writes between two marks. All else is the user's.

What comes from rows, prompts and names is shown as text: it passes through `plain` or `fenced` wherever it is put.
"""

import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files

import yaml
from jinja2 import Environment, StrictUndefined

from hfsynth.publishing import telling
from hfsynth.publishing.facts import ConfigFacts
from hfsynth.publishing.metadata import Metadata, merge_metadata, metadata_of
from hfsynth.publishing.remaking import again
from hfsynth.recipe import dump
from hfsynth.reporting.markdown import fenced, number, plain

_BLOCK = re.compile(r"<!-- hfsynth: begin (\w+)[^>]*-->.*?<!-- hfsynth: end \1 -->\n?", re.DOTALL)
_HEAD = re.compile(r"\A(?:\ufeff)?---\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


class _Loader(yaml.SafeLoader):
    """Reads `no` and `on` as the words that they are in a card, where Norwegian is a language."""


_Loader.yaml_implicit_resolvers = {
    sign: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:bool" or sign in "tTfF"]
    for sign, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def write_card(repo_id: str, head: str, before: Sequence[ConfigFacts], now: Sequence[ConfigFacts]) -> str:
    """Return the README.md of a dataset.

    Args:
        repo_id: What the dataset is loaded by: `user/name`, or the name of a folder.
        head: The README.md that it has; "" for none.
        before: The configurations that `head` tells of.
        now: Those that it is to tell of.

    Raises:
        ValueError: If the metadata of `head` can't be read.
    """
    metadata, text = read_metadata(head)
    merged = merge_metadata(metadata, metadata_of(before) if before else {}, metadata_of(now))
    body = _body(repo_id, now)
    mark = hashlib.sha256(body.encode()).hexdigest()[:12]
    note = "what stands between this line and the end is written anew with every push"
    block = f"<!-- hfsynth: begin {mark}, {note} -->\n{body}<!-- hfsynth: end {mark} -->\n"
    if found := _BLOCK.search(text):
        text = text[: found.start()] + block + text[found.end() :]
    elif text.strip():
        text = f"{text.rstrip()}\n\n{block}"
    else:
        text = f"\n# {plain(repo_id.rpartition('/')[2])}\n\n{block}"
    return f"---\n{_yaml(merged)}---\n{text}"


def _body(repo_id: str, configs: Sequence[ConfigFacts]) -> str:
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "plain": plain,
        "fenced": fenced,
        "number": number,
        "yaml": dump,
    }
    template = environment.from_string(files(__package__).joinpath("card.md.jinja").read_text(encoding="utf-8"))
    return template.render(
        configs=configs,
        opening=telling.opening,
        loading=lambda config: telling.loading(config, repo_id),
        drawings=telling.drawings,
        funnels=telling.funnels,
        steps=telling.steps,
        rows_that_ended=telling.rows_that_ended,
        savings=telling.savings,
        models=telling.models_told,
        machines=telling.machines,
        figures=telling.figures,
        glances=telling.glances,
        scripts=telling.scripts,
        samples=telling.samples,
        again=lambda config: list(again(config, repo_id)),
        all_models=telling.all_models(configs),
        citations=telling.citations(configs),
    )


def read_metadata(readme: str) -> tuple[Metadata, str]:
    """Part a README.md into its metadata and its text.

    Raises:
        ValueError: If the metadata can't be read.
    """
    found = _HEAD.match(readme)
    if not found:
        return {}, readme
    try:
        metadata = yaml.load(found.group(1), Loader=_Loader) or {}
    except yaml.YAMLError as error:
        raise ValueError(
            f"the metadata of the dataset's README.md is not YAML: {' '.join(str(error).split())}."
        ) from None
    if not isinstance(metadata, dict):
        raise ValueError(f"the metadata of the dataset's README.md is {metadata!r}; it must be names and values.")
    return metadata, readme[found.end() :]


def _yaml(metadata: Metadata) -> str:
    return yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=1_000)

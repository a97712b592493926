"""What the cards of models and source datasets on the Hub state: licence and languages."""

import logging
from dataclasses import asdict
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from hfsynth.errors import PushError
from hfsynth.generation import Origin
from hfsynth.publishing.facts import ConfigFacts, key_of, models
from hfsynth.publishing.retrying import persistently

logger = logging.getLogger(__name__)


def look_up(api: HfApi, facts: ConfigFacts) -> dict[str, dict[str, Any]]:
    """Ask the Hub for the cards of the models and sources of a configuration that are there.

    Returns:
        `key_of` name and commit → `licence` and `languages`. What can't be asked for is left out: it isn't stated.
    """
    asked = {
        (step.node.model, step.origin.commit): ("model", str((step.recipe.get("llm") or {}).get("model", "")))
        for step in models(facts)
        if not step.origin.licence
    }
    asked |= {(run.source.name, run.source.commit): ("dataset", run.source.name) for run in facts.runs}
    found = {}
    for (name, commit), (kind, repo_id) in asked.items():
        if "/" in repo_id and (origin := _stated(api, kind, repo_id, commit)):
            found[key_of(name, commit)] = {key: value for key, value in asdict(origin).items() if key != "commit"}
    return found


def _stated(api: HfApi, kind: str, repo_id: str, commit: str) -> Origin | None:
    try:
        ask = api.model_info if kind == "model" else api.dataset_info
        info = persistently(f"reading the card of {repo_id}", lambda: ask(repo_id, revision=commit or None))
    except (HfHubHTTPError, PushError) as error:
        logger.warning("the licence of %s is not known: %s", repo_id, error)
        return None
    card: dict[str, Any] = vars(info.card_data) if info.card_data else {}
    return Origin.of_card(card, commit)

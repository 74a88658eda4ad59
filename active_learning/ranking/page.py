"""The page of a round: what to label next and why, how good the network is, whether more labels pay."""

import io
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import jinja2
import numpy as np

from acquisition_functions import ACQUISITION_FUNCTIONS, highest_scores
from active_learning.images.files import Listing
from active_learning.images.library import Label, Library
from active_learning.images.pixels import guarded, thumbnail
from active_learning.ranking.config import RankConfig
from active_learning.ranking.estimate import (
    LEAST_HELD_OUT,
    LEAST_LABELS,
    LEAST_RANDOM,
    MOST_CROSS_VALIDATED,
    Estimate,
    Halves,
    Share,
)
from active_learning.ranking.journal import Choice
from active_learning.ranking.rank import Ranking
from active_learning.report.gallery import data_uri
from active_learning.terminal import COMMAND

TEMPLATES = Path(__file__).with_name("templates")
THUMBNAIL = 256
"""Pixels of a picture's longer side; smaller images are shown as they are, enlarged."""

NO_NETWORK = "Not known: there are no labels of two classes yet, so no network was trained."

MOST_SHOWN = 100
"""Pictures of the page, and names of the files that were left out."""


@dataclass(frozen=True)
class Shown:
    """An image of the batch as the page shows it."""

    uri: str
    small: bool
    file_name: str
    predicted: str
    why: str


def render(
    config: RankConfig,
    listing: Listing,
    library: Library,
    labels: Mapping[str, Label],
    classes: Sequence[str],
    ranking: Ranking,
) -> bytes:
    """Return the page, which needs nothing beside it; what comes from the user is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    counts = Counter(label.name for label in labels.values())
    predicted = Counter([one.predicted for one in ranking.choices] + [one.predicted for one in ranking.rest])
    text = environment.get_template("rank.html").render(
        title=config.images.name,
        round=ranking.round_,
        images=len(library.pictures),
        pool=len(ranking.choices) + len(ranking.rest),
        shown=_shown(listing, ranking),
        not_shown=max(0, len(ranking.choices) - MOST_SHOWN),
        how=how_chosen(ranking, config.random_share),
        classes=[(name, counts[name], predicted[name]) for name in classes],
        cold=ranking.cold,
        labelled=len(labels),
        error=[NO_NETWORK] if ranking.cold else error_sentences(ranking.estimate, config),
        pays=[NO_NETWORK] if ranking.cold else pays_sentences(ranking.estimate, config),
        network=f"{_network(config)}, {library.size} x {library.size} pixels, {_channels(library)}",
        again=command(config),
        skipped=list(library.skipped.items())[:MOST_SHOWN],
        skipped_count=len(library.skipped),
        copies=sum(len(picture.others) for picture in library.pictures),
    )
    return text.encode("utf-8", "backslashreplace")  # a path may be no text


def how_chosen(ranking: Ranking, random_share: float) -> list[str]:
    """Return how the batch was chosen, in sentences."""
    function = ranking.function
    found = []
    if ranking.cold:
        found.append(
            "There are no labels of two classes yet, so no network was trained: this batch is a cover of the pool. The "
            "images were grouped by how alike they look (small pictures, principal components, k-means), and of each "
            "of the largest groups the most typical image is asked for."
        )
    elif not function.needs:
        found.append("Random choice was asked for: a lot decides, and the scores are empty.")
    elif function.score is not None:
        found.append(
            f"{function.label} scored {ranking.looked_at:,} images of the pool; a score is {function.values}: the "
            "higher it is, the more a label is expected to teach."
        )
        if function.select is not highest_scores:
            found.append(
                "The batch was drawn in favour of high scores, so that it is not one kind of image again and again."
            )
    else:
        found.append(
            f"{function.label} picks a batch as a whole, among {ranking.looked_at:,} images of the pool drawn at "
            f"random; a score is {function.values}, of that choice. It gives the other images no score of their own: "
            "they stand in the ranking by their confidence, least sure first."
        )
    drawn = sum(choice.chosen_by == "random" for choice in ranking.choices)
    if drawn and (ranking.cold or function.needs):
        found.append(
            f"{drawn} of the {len(ranking.choices)} {'was' if drawn == 1 else 'were'} drawn at random (--random_share "
            f"{random_share:g}): only on such images can the error on your pool be measured honestly, and the network "
            "learns from them too."
        )
    return found


def error_sentences(estimate: Estimate, config: RankConfig) -> list[str]:
    """Return what is known of the error, in sentences."""
    if not config.val_share:
        return ["No estimate was asked for (--val_share 0)."]
    if estimate.random is None and estimate.every is None:
        return [f"Too few labels for a statement: there are {estimate.labels}, and it takes {LEAST_LABELS}."]
    found = []
    if estimate.random is not None:
        few = " That is few, as the width of the interval says." if estimate.random.images < LEAST_HELD_OUT else ""
        found.append(
            f"On the images that were asked for at random: {_share(estimate.random)}. They stand for the pool, "
            f"if each image that was drawn at random got its label.{few}"
        )
    else:
        found.append(
            f"Not known for the pool: that takes labels of {LEAST_RANDOM} images that were asked for at random. The "
            "images that have labels were chosen otherwise."
        )
    if estimate.every is not None:
        drawn = f"{estimate.at_random} of them were drawn at random, the others" if estimate.at_random else "They"
        found.append(
            f"On all labels: {_share(estimate.every)}. {drawn} were given by you or chosen, and not drawn from the "
            "pool, so the pool's error is another one: a lower one, if they were chosen because they are hard."
        )
    found.append(
        f"How: the labels were held out, a share of {config.val_share:g} at a time, each of them once (of more than "
        f"{MOST_CROSS_VALIDATED:,} only one such share), and a network was trained on all others. Intervals are "
        "Wilson's, of 95 %, as if the images were independent."
    )
    return found


def pays_sentences(estimate: Estimate, config: RankConfig) -> list[str]:
    """Return whether more labels pay, and whether choosing them does, in sentences, with the evidence."""
    if not config.val_share:
        return ["No estimate was asked for (--val_share 0)."]
    halves = estimate.halves
    if halves is None:
        return [
            f"Too few labels for a statement on whether more of them pay: it takes {LEAST_HELD_OUT} that are held out, "
            f"and there are {estimate.labels} labels.",
            *_choosing_sentences(estimate, config),
        ]
    paired = halves.paired
    on = "that were drawn at random" if halves.random else "with a label, which are no random ones"
    evidence = (
        f"The evidence: on {paired.second.images} images {on}, held out a share at a time, a network errs on "
        f"{_percent(paired.first)} with half of each class's other labels, and on {_percent(paired.second)} with all "
        f"of them: {paired.gained} images are right only with all, {paired.lost} only with half (sign test, "
        f"p = {paired.p_value:.2g})."
    )
    return [_verdict(halves), evidence, *_choosing_sentences(estimate, config)]


def _verdict(halves: Halves) -> str:
    if halves.expected is None:
        return (
            "Whether more labels pay cannot be told: all of them show no gain over half of them that chance alone "
            "could not give. Either labels have stopped paying, or there are too few to see it."
        )
    return (
        f"More labels still pay. If the error goes on falling by the same factor each time the labels double (a power "
        f"law, as learning curves mostly follow), {halves.labels} labels more would take it from "
        f"{_percent(halves.paired.second)} to about {halves.expected:.1%} on these images."
    )


def _choosing_sentences(estimate: Estimate, config: RankConfig) -> list[str]:
    """Return what a random choice would have given."""
    function = ACQUISITION_FUNCTIONS[config.acquisition]
    choosing = estimate.choosing
    if choosing is None:
        if not function.needs:
            return ["Images are chosen at random: there is no other choice to set against that."]
        unknown = "What a random choice would have given is not known"
        if not config.random_share:
            return [f"{unknown}: no images are drawn at random (--random_share 0)."]
        return [
            f"{unknown} yet: it takes labels of {LEAST_HELD_OUT} images that were drawn at random, and of as many that "
            f"{function.label} chose. There are {estimate.at_random} and {estimate.chosen}; a larger --random_share "
            "comes to the first sooner."
        ]
    paired = choosing.paired
    gain, low, high = (100 * value for value in paired.difference)
    chosen, drawn = f"{choosing.labels} images that {function.label} chose", f"{choosing.labels} drawn at random"
    if paired.told_apart and gain > 0:
        verdict = (
            f"Choosing pays: the first {chosen} save {gain:.1f} percentage points of error [{low:.1f}, {high:.1f}] "
            f"against {drawn}."
        )
    elif paired.told_apart:
        verdict = (
            f"Choosing costs: the first {chosen} cost {-gain:.1f} percentage points of error [{-high:.1f}, {-low:.1f}] "
            f"against {drawn}. --acq_func uniform chooses at random; another function is judged by what it chooses "
            "from then on."
        )
    else:
        verdict = (
            f"Whether choosing pays cannot be told: the first {chosen} save {gain:.1f} percentage points of error "
            f"[{low:.1f}, {high:.1f}] against {drawn}, which may be chance. More images drawn at random "
            "(--random_share) tell it sooner."
        )
    others = f"labels of {choosing.others} other images and " if choosing.others else ""
    evidence = (
        f"The evidence: {paired.first.images} images that were drawn at random, held out a share at a time. With "
        f"{others}those of {drawn} a network errs on {_interval(paired.first)}, with those of the chosen ones in their "
        f"place on {_interval(paired.second)}: {paired.gained} images are right only with the chosen ones, "
        f"{paired.lost} only with the random ones (sign test, p = {paired.p_value:.2g}). {function.label} chose with "
        "networks that had learned some of these images, which is to the disadvantage of choosing."
    )
    return [verdict, evidence]


def _interval(share: Share) -> str:
    low, high = share.interval
    return f"{share.value:.1%} [{low:.1%}, {high:.1%}]"


def _share(share: Share) -> str:
    return f"{share.errors} of {share.images} wrong, {_interval(share)}"


def _percent(share: Share) -> str:
    return f"{share.value:.1%}"


def command(config: RankConfig) -> str:
    """Return the command that takes the labels in and goes on: this one, with its flags."""
    words = [*COMMAND, "rank", str(config.images), "--labels", str(config.folder / "batch.csv")]
    for entry in fields(config):
        value = getattr(config, entry.name)
        if entry.name in ("images", "labels", "relabel", "add_classes", "quiet") or value == entry.default:
            continue
        words += [f"--{entry.name}"] if value is True else [f"--{entry.name}", str(value)]
    return shlex.join(words)


def _network(config: RankConfig) -> str:
    if config.fine_tune:
        return f"a pretrained {config.network}, trained from there on"
    return f"a head on features of a pretrained {config.network}" if config.pretrained else config.network


def _shown(listing: Listing, ranking: Ranking) -> list[Shown]:
    with guarded():
        return [_one(listing, ranking, choice) for choice in ranking.choices[:MOST_SHOWN]]


def _one(listing: Listing, ranking: Ranking, choice: Choice) -> Shown:
    name = choice.picture.file_name
    picture = thumbnail(listing.path(name), THUMBNAIL)
    buffer = io.BytesIO()
    if picture is not None:
        picture.save(buffer, format="PNG")
    predicted = "" if choice.confidence is None else f"{choice.predicted}, {choice.confidence:.0%}"
    uri = data_uri(buffer.getvalue(), "image/png") if picture is not None else ""
    return Shown(uri, picture is not None and max(picture.size) < 128, name, predicted, _why(ranking, choice))


def _why(ranking: Ranking, choice: Choice) -> str:
    if choice.chosen_by == "random":
        return "drawn at random"
    if choice.chosen_by == "cover":
        size = ranking.clusters[choice.picture.sha256]
        return f"typical of a group of {size:,}" if size else "to fill the batch"
    lower = [one.score < choice.score for one in ranking.rest if one.score is not None and choice.score is not None]
    above = f", above {int(100 * np.mean(lower))}% of the rest" if lower else ""
    return f"{ranking.function.label} {choice.score:.3g}{above}"


def _channels(library: Library) -> str:
    return "grey" if library.pixels.shape[1] == 1 else "in colour"

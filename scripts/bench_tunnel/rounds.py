"""Contenders in turns."""

import time

from .contenders import Punch
from .figures import on_off
from .measure import measure
from .processes import Failed, say
from .stage import Stage


def take_turn(contender, offloads, groups, options, turn, show):
    """One contender in fresh namespaces."""
    row = {"turn": turn, "contender": contender.name, "offloads": offloads, "values": {}, "failures": {}}
    with Stage(options) as stage:
        try:
            stage.pair(offloads)
            link = contender.connect(stage)
            # What programs do once after their start is over by then.
            time.sleep(2)
            measure(link, groups, options.seconds, row, show)
        except Failed as error:
            row["failures"]["setup"] = str(error)
            show(f"failed: {error}")
    return row


def compare(options, fighters):
    rows = []
    for turn in range(1, options.rounds + 1):
        for offloads in options.offloads:
            for fighter in fighters:
                groups = [group for group in options.figures if fighter.tunnel or group in ("tcp", "streams")]
                if not offloads:
                    groups = [group for group in groups if group == "tcp"]
                label = f"round {turn}/{options.rounds}, offloads {on_off(offloads)}, {fighter.name}: "
                rows.append(take_turn(fighter, offloads, groups, options, turn, lambda text, label=label: say(label + text)))
    return rows


def compare_configured(options):
    rows = []
    for turn in range(1, options.rounds + 1):
        for count in options.configured:
            fighter = Punch(f"{count:,} configured", configured=count)
            label = f"round {turn}/{options.rounds}, {fighter.name}: "
            rows.append(take_turn(fighter, True, ["tcp", "load"], options, turn, lambda text, label=label: say(label + text)))
    return rows

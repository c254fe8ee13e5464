"""What a probe has written down, and what it tells of a fault."""

from dataclasses import dataclass, field


@dataclass
class Record:
    """Packets by their numbers, with the times of sending and of the first reply."""

    sent: dict = field(default_factory=dict)
    replied: dict = field(default_factory=dict)
    # The times of what has come back over TCP, and how many connections have ended by now.
    talked: list = field(default_factory=list)
    ended: int = 0

    def take(self, lines):
        for line in lines:
            kind, *words = line.split()
            if kind == "S":
                self.sent[int(words[0])] = float(words[1])
            elif kind == "R":
                self.replied.setdefault(int(words[0]), float(words[1]))
            elif kind == "T":
                self.talked.append(float(words[0]))
            elif kind == "X":
                self.ended += 1

    def replies(self, since):
        """The times of the replies since then, in order, behind that of the last one before."""
        times = sorted(self.replied.values())
        before = [time for time in times if time < since]
        return before[-1:] + [time for time in times if time >= since]

    def silence(self, since, until, counted=None):
        """The longest time between two replies since then; what lies before `counted` does not count."""
        times = [*self.replies(since), until]
        times = [max(time, counted or time) for time in times if time <= until]
        return max((after - before for before, after in zip(times, times[1:])), default=until - since)

    def lost(self, since, until):
        """Packets of that time without a reply, and how many there were."""
        numbers = [number for number, time in self.sent.items() if since <= time < until]
        return sum(number not in self.replied for number in numbers), len(numbers)

    def is_steady(self, since, until, gap=0.3):
        """Whether replies came all the time."""
        times = [since, *(time for time in self.replied.values() if since <= time <= until), until]
        times.sort()
        return len(times) > 2 and all(after - before <= gap for before, after in zip(times, times[1:]))

    def trim(self, since):
        """Forgets what is older."""
        self.sent = {number: time for number, time in self.sent.items() if time >= since}
        self.replied = {number: time for number, time in self.replied.items() if time >= since}
        self.talked = [time for time in self.talked if time >= since]

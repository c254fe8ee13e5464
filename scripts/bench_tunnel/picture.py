"""The chart, as SVG."""

import functools
from html import escape

from .report import summary

COLOURS = ["#c8385a", "#1f77a4", "#e0a030", "#4f9d69", "#6b5b95", "#8a8f98", "#a0522d", "#2f4858"]


def draw(title, subtitle, panels, names):
    """SVG: a panel per figure, a bar per contender, a whisker from the smallest to the largest round."""
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    columns, width, left, bar, gap = 2, 470, 122, 16, 5
    inner = width - left - 110
    heights = [[34 + (bar + gap) * len(panel["bars"]) + 16 for panel in panels[index:index + columns]]
               for index in range(0, len(panels), columns)]
    total_width, top = columns * width + 40, 92
    total_height = top + sum(max(row) for row in heights) + 14
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{total_width}" height="{total_height}" '
           f'viewBox="0 0 {total_width} {total_height}" font-family="system-ui, sans-serif" font-size="12" fill="#222">',
           f'<rect width="{total_width}" height="{total_height}" fill="#fff"/>',
           f'<text x="20" y="30" font-size="18" font-weight="600">{escape(title)}</text>',
           f'<text x="20" y="49" fill="#555">{escape(subtitle)}</text>']
    x = 20
    for name in names:
        out.append(f'<rect x="{x}" y="62" width="12" height="12" rx="2" fill="{colours[name]}"/>')
        out.append(f'<text x="{x + 17}" y="72">{escape(name)}</text>')
        x += 36 + 7 * len(name)
    y = top
    for number, panel in enumerate(panels):
        x = 20 + number % columns * width
        figure = panel["figure"]
        better = "more is better" if figure.more_is_better else "less is better"
        out.append(f'<text x="{x}" y="{y + 18}" font-weight="600">{escape(panel["title"])}'
                   f'<tspan dx="7" font-weight="400" fill="#555">{escape(figure.unit)}, {better}</tspan></text>')
        longest = max(largest for _, (_, _, largest) in panel["bars"]) or 1
        for index, (name, (median, smallest, largest)) in enumerate(panel["bars"]):
            line = y + 30 + index * (bar + gap)
            middle = line + bar / 2
            scale = functools.partial(lambda value, start, per: start + value * per, start=x + left, per=inner / longest)
            weight = 600 if index == 0 else 400
            out.append(f'<text x="{x + left - 6}" y="{middle + 4}" text-anchor="end" font-weight="{weight}">{escape(name)}</text>')
            out.append(f'<rect x="{x + left}" y="{line}" width="{max(1, scale(median) - x - left):.1f}" height="{bar}" rx="2" fill="{colours[name]}"/>')
            if largest > smallest:
                out.append(f'<path d="M{scale(smallest):.1f} {middle}H{scale(largest):.1f}M{scale(smallest):.1f} {middle - 4}v8'
                           f'M{scale(largest):.1f} {middle - 4}v8" stroke="#222" stroke-opacity=".65" fill="none"/>')
            out.append(f'<text x="{scale(largest) + 7:.1f}" y="{middle + 4}">{figure.text(median)}</text>')
        if number % columns == columns - 1:
            y += max(heights[number // columns])
    out.append("</svg>")
    return "\n".join(out) + "\n"


def panels_of(rows, figures, names):
    panels = []
    for offloads in (True, False):
        found = summary([row for row in rows if row["offloads"] == offloads], figures, names)
        for figure in figures:
            bars = [(name, found[name][figure.key]) for name in names if found[name][figure.key]]
            if bars:
                panels.append({"title": figure.title + ("" if offloads else ", offloads off"), "figure": figure, "bars": bars})
    return panels

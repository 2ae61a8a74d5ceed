"""The page's style sheet."""

STYLE = """
:root { --ink: #1d2429; --pale: #6b7780; --rule: #dfe4e8; --normal: #2a6f97; --defective: #c0392b; --mark: #e0a100 }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff }
body { margin: 0 auto; max-width: 1280px; padding: 24px }
h1 { font-size: 24px; margin: 0 } h2 { font-size: 18px; margin: 36px 0 8px }
p, ul { margin: 6px 0; max-width: 90ch }
code { overflow-wrap: anywhere }
.pale { color: var(--pale) }
.wide { overflow-x: auto }
table { border-collapse: collapse; white-space: nowrap; font-variant-numeric: tabular-nums }
th, td { padding: 4px 7px; font-size: 14px; text-align: right; vertical-align: top }
th, td { border-bottom: 1px solid var(--rule) }
th { font-weight: 600 } th.group { text-align: left }
th:first-child, td:first-child { text-align: left }
tr.whole td { font-weight: 600 }
td small { display: block; color: var(--pale); font-weight: 400 }
.first { border-left: 1px solid var(--rule) }
.charts, .examples { display: flex; flex-wrap: wrap; gap: 12px }
.charts svg { width: 300px; height: 250px }
svg text { font: 11px system-ui, sans-serif; fill: var(--pale) }
svg .title { font-size: 13px; font-weight: 600; fill: var(--ink) }
svg .x { text-anchor: middle } svg .y { text-anchor: end }
svg .grid { stroke: var(--rule) }
svg .chance { fill: none; stroke: var(--pale); stroke-dasharray: 4 3 }
svg .curve { fill: none; stroke: var(--defective); stroke-width: 2 }
svg .observed { fill: none; stroke: var(--normal); stroke-width: 2 }
svg .normal { fill: var(--normal); fill-opacity: .5 }
svg .defective { fill: var(--defective); fill-opacity: .5 }
svg .band { fill: var(--pale); fill-opacity: .15 }
svg .threshold { fill: none; stroke: var(--mark); stroke-width: 2 }
svg .point { fill: var(--mark); stroke: #fff }
.key i { display: inline-block; width: 11px; height: 11px; margin: 0 4px 0 14px }
.key i:first-child { margin-left: 0 }
.normal { background: var(--normal) } .defective { background: var(--defective) } .threshold { background: var(--mark) }
figure { margin: 0; padding: 8px; border: 1px solid var(--rule); border-radius: 6px }
figure div { display: flex; gap: 6px }
figure span { font-size: 11px; color: var(--pale) }
figure img { display: block; width: 138px }
figcaption { font-size: 12px; overflow-wrap: anywhere; max-width: 570px }
"""

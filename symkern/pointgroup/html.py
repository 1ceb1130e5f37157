"""The picture as one HTML page: scene, styles and scripts inside, nothing fetched from elsewhere."""

from __future__ import annotations

import json
import re
from html import escape
from importlib.resources import files
from typing import Any

from symkern.pointgroup import render
from symkern.pointgroup.legend import Row, rows, sign
from symkern.pointgroup.scene import Scene

_STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #f6f8fa; color: #1e293b;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { display: flex; flex-wrap: wrap; gap: 22px; justify-content: center; align-items: flex-start; padding: 20px; }
#stage { flex: 1 1 420px; max-width: min(860px, 92vh); }
canvas { width: 100%; aspect-ratio: 1; display: block; background: #fff; border: 1px solid #e2e8f0; border-radius: 10px;
  touch-action: none; cursor: grab; } canvas:active { cursor: grabbing; }
canvas:focus-visible, input:focus-visible, button:focus-visible { outline: 2px solid #2563a8; outline-offset: 2px; }
aside { flex: 0 1 330px; background: #fff; border: 1px solid #e2e8f0; border-radius: 10px; padding: 18px 24px; }
h1 { font-size: 42px; line-height: 1.15; font-weight: 600; margin: 0; } h1 sub { font-size: 60%; }
h2 { font-size: 13px; font-weight: 600; color: #64748b; margin: 16px 0 4px; }
p { margin: 2px 0; } .quiet { color: #64748b; font-size: 13px; }
label { display: flex; align-items: center; gap: 8px; padding: 2px 0; cursor: pointer; }
sub, sup { font-size: 72%; line-height: 0; }
svg { flex: none; } button { font: inherit; font-size: 13px; padding: 4px 12px; margin: 12px 6px 0 0; cursor: pointer;
  background: #f6f8fa; color: inherit; border: 1px solid #cbd5e1; border-radius: 7px; }
kbd { font: inherit; font-size: 12px; border: 1px solid #cbd5e1; border-radius: 4px; padding: 0 4px; }
"""


def html(scene: Scene) -> str:
    """The whole page."""
    few = len(scene.positions) <= 30
    switches = "".join(
        (
            _switch("axes", "axes", "a", True),
            _switch("planes", "planes", "p", True),
            _switch("labels", "labels", "l", few),
            _switch("orbits", "equivalent atoms in one colour", "o", False),
        )
    )
    title = f"{scene.formula or 'no atoms'}: {scene.label}"
    elements = "".join(map(_row, rows(scene))) or '<p class="quiet">no axes, no planes</p>'
    classes = ", ".join(f"{size if size > 1 else ''}{name_html(name)}" for size, name in scene.classes)
    formula = re.sub(r"(\d+)", r"<sub>\1</sub>", escape(scene.formula))
    said = f"{title}. {scene.operations}. {', '.join(f'{row.count} {row.name} {row.what}' for row in rows(scene))}"
    data = json.dumps(as_json(scene), separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    here = files("symkern.pointgroup")
    script = "\n".join((here / name).read_text(encoding="utf-8") for name in ("raycast.js", "viewer.js"))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>
<body><main>
<div id="stage"><canvas id="view" tabindex="0" role="img" aria-label="{escape(said)}"></canvas>
<p class="quiet" id="said" aria-live="polite">&nbsp;</p></div>
<aside>
<h1>{group_html(scene.label)}</h1><p>{formula}, {scene.operations}</p>
<h2>Elements</h2>{elements}
<h2>Classes</h2><p>{classes}</p>
<h2>Show</h2>
{switches}<button id="reset">Reset</button><button id="save">Save as PNG</button>
<p class="quiet" style="margin-top:12px">Drag to turn, wheel or pinch to zoom; with the picture in focus:
arrow keys, <kbd>+</kbd> <kbd>-</kbd>, <kbd>0</kbd>.</p>
</aside></main>
<script type="application/json" id="scene">{data}</script>
<script>
{script}
</script></body></html>
"""


def as_json(scene: Scene) -> dict[str, Any]:
    """What viewer.js draws."""
    atoms = zip(
        scene.positions.round(5).tolist(),
        scene.radii.round(4).tolist(),
        scene.symbols,
        scene.colors,
        scene.orbits.tolist(),
        scene.orbit_colors,
        strict=True,
    )
    keys = ("position", "radius", "symbol", "color", "orbit", "orbit_color")
    return {
        "formula": scene.formula,
        "label": scene.label,
        "radius": scene.radius,
        "atoms": [dict(zip(keys, atom, strict=True)) for atom in atoms],
        "bonds": scene.bonds.tolist(),
        "axes": [
            {
                "direction": a.direction.tolist(),
                "order": a.order,
                "improper": a.improper,
                "names": a.names,
                "color": a.color,
            }
            for a in scene.axes
        ],
        "planes": [{"normal": p.normal.tolist(), "name": p.name, "color": p.color} for p in scene.planes],
        "inversion": scene.inversion,
        "view": render.view(*render.good_view(scene)).tolist(),
        "style": {
            "bond": render.BOND,
            "rod": render.ROD,
            "rim": render.RIM,
            "rim_parts": render.RIM_PARTS,
            "axis_length": render.AXIS_LENGTH,
            "disk": render.DISK,
            "many": render.MANY,
            "named": render.NAMED,
        },
    }


def name_html(name: str) -> str:
    """ "C6" as C with the index 6; "σv′", "C5²" likewise."""
    found = re.fullmatch(r"(∞?[A-Zσi])([^′″¹²³⁴⁵⁶⁷⁸⁹⁰]*)(.*)", name)
    if found is None:
        return escape(name)
    letter, below, rest = found.groups()
    return f"{letter}<sub>{below}</sub>{rest}" if below else letter + rest


def group_html(label: str) -> str:
    below = label[1:].replace("inf", "∞")
    return f"{label[0]}<sub>{below}</sub>" if below else label


def _switch(name: str, text: str, key: str, on: bool) -> str:
    return f'<label><input type="checkbox" id="{name}"{" checked" if on else ""}>{text} <kbd>{key}</kbd></label>\n'


def _row(row: Row) -> str:
    many = f"{row.count} " if row.count > 1 else ""
    if row.kind == "plane":
        shape = f'<path d="M2 18 L13 18 L20 5 L9 5 Z" fill="{row.color}66" stroke="{row.color}"/>'
    elif row.kind == "inversion":
        shape = f'<circle cx="11" cy="11" r="5" fill="#fff" stroke="{row.color}" stroke-width="2"/>'
    else:
        corners = " ".join(f"{11 + 8 * x:.1f},{11 - 8 * y:.1f}" for x, y in sign(row.order))
        face = "#fff" if row.kind == "improper" else row.color
        shape = f'<polygon points="{corners}" fill="{face}" stroke="{row.color}" stroke-width="1.5"/>'
    icon = f'<svg width="22" height="22" aria-hidden="true">{shape}</svg>'
    name = "" if row.kind == "inversion" else name_html(row.name) + " "
    return (
        f'<label><input type="checkbox" checked data-element="{escape(row.name)}">{icon}'
        f"<span>{many}{name}{row.what}</span></label>\n"
    )

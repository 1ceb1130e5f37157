"""Reports as one HTML file: pictures inside, nothing fetched from elsewhere, no scripts."""

from __future__ import annotations

import base64
from html import escape

_STYLE = """
body { margin: 0; background: #f6f8fa; color: #1e293b;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { margin: 0 auto; padding: 36px 24px 60px; }
h1 { font-size: 28px; margin: 0; } h2 { font-size: 19px; margin: 0 0 6px; }
p { margin: 6px 0 12px; } .quiet { color: #64748b; font-size: 14px; }
section { background: #fff; border: 1px solid #e2e8f0; border-radius: 10px; padding: 22px 26px; margin-top: 20px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; margin: 10px 0; font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 600; color: #475569; border-bottom: 2px solid #e2e8f0; padding: 5px 8px; }
td { text-align: right; border-bottom: 1px solid #eef2f6; padding: 5px 8px; }
th.text, td.text { text-align: left; } .scroll { overflow-x: auto; }
ul { list-style: none; padding: 0; margin: 10px 0; font-size: 14.5px; } li { padding: 3px 0; }
.mark { display: inline-block; width: 44px; text-align: center; border-radius: 5px; font-size: 12px; font-weight: 600;
  margin-right: 10px; }
.pass { background: #dcfce7; color: #166534; } .fail { background: #fee2e2; color: #b91c1c; }
.verdict { display: inline-block; border-radius: 7px; padding: 4px 14px; font-weight: 600; margin: 12px 0 2px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px; margin-top: 18px; }
.tile { background: #fff; border: 1px solid #e2e8f0; border-radius: 10px; padding: 12px 16px; }
.tile b { display: block; font-size: 22px; color: #2563a8; } .tile span { font-size: 13px; color: #64748b; }
figure { margin: 16px 0 4px; } img { max-width: 100%; display: block; margin: 0 auto; }
figcaption { font-size: 13.5px; color: #64748b; text-align: center; margin-top: 4px; }
th[colspan="2"] { text-align: center; } .close td { white-space: nowrap; }
h3 { font-size: 15px; margin: 18px 0 0; color: #475569; } small { color: #64748b; } a { color: #2563a8; }
.cell { border-radius: 4px; padding: 1px 5px; } ul.plain { list-style: disc; padding-left: 20px; }
details { margin-top: 12px; font-size: 14.5px; } summary { cursor: pointer; color: #475569; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; font-size: 14.5px; margin: 8px 0; }
dt { color: #64748b; } dd { margin: 0; }
pre { font-size: 12.5px; line-height: 1.5; overflow-x: auto; margin: 4px 0; }
"""


def page(title: str, body: str, *, width: int = 940) -> str:
    """The whole file; `body` is HTML, `width` in pixels."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<style>{_STYLE}</style></head>\n<body><main style="max-width: {width}px">\n{body}\n</main></body></html>\n'
    )


def figure(png: bytes, caption: str) -> str:
    """A picture with its caption, plain text."""
    data, text = base64.b64encode(png).decode("ascii"), escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'

"""The colours of all pages and charts, by the role that each plays, on light and dark ground."""

LIGHT = {
    "surface": "#ffffff",
    "ink": "#1b1e24",
    "muted": "#5f6773",
    "rule": "#dfe2e7",
    "base": "#67717f",
    "tuned": "#2558c4",
    "below": "#b0561f",
}
DARK = {
    "surface": "#16181d",
    "ink": "#e8eaee",
    "muted": "#a0a7b3",
    "rule": "#343841",
    "base": "#8d97a5",
    "tuned": "#86aaff",
    "below": "#eb9a66",
}

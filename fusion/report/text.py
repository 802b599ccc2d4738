"""Numbers as a reader likes them."""


def format_percent(share: float) -> str:
    """0.612 as 61.2%."""
    return f"{100 * share:.1f}%"


def format_points(share: float) -> str:
    """A difference of two shares in percentage points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")


def format_number(value: float) -> str:
    """12345 as 12,345; large numbers as 1.2 M or 3.4 G."""
    for limit, unit in ((1e9, "G"), (1e6, "M")):
        if abs(value) >= limit:
            return f"{value / limit:.1f} {unit}"
    return f"{value:,.0f}"


def format_duration(seconds: float) -> str:
    """The two largest units of a time: 45 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"

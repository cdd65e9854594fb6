"""Units of measure and money, by one name each."""

import re

SYMBOL = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen"}
"""Currency signs, and the name of what they count."""
_NAMES = {  # words, then after each bar a phrase
    "%": "% percent|per cent|percents", "°": "deg degs degree degrees", "°C": "celsius|degrees celsius|deg C|degrees C",
    "°F": "fahrenheit|degrees fahrenheit|deg F|degrees F", "dollar": "dollars $ USD usd", "euro": "euros EUR eur €",
    "pound": "pounds £ GBP", "yen": "¥ JPY", "cent": "cents ¢", "m": "meter meters metre metres",
    "cm": "centimeter centimeters centimetre centimetres cms CM", "mm": "millimeter millimeters millimetre millimetres",
    "km": "kilometer kilometers kilometre kilometres kms KM", "g": "gram grams", "kg": "kilogram kilograms kgs KG",
    "mg": "milligram milligrams", "s": "sec secs second seconds", "min": "mins minute minutes",
    "h": "hr hrs hour hours", "day": "days", "l": "L liter liters litre litres", "ml": "mL milliliter milliliters",
    "ft": "foot feet", "in": "inch inches", "mi": "mile miles", "km/h": "kph kmh|kilometers per hour|km per hour",
    "mph": "|miles per hour|mi/h", "m/s": "|meters per second|m per s", "m^2": "|square meters|square metres|sq m",
    "cm^2": "|square centimeters|square cm|sq cm", "cm^3": "|cubic centimeters|cubic cm", "m^3": "|cubic meters",
    "N": "newton newtons", "J": "joule joules", "W": "watt watts", "mW": "milliwatt milliwatts",
    "kW": "kilowatt kilowatts", "MW": "megawatt megawatts", "V": "volt volts", "A": "amp amps", "K": "kelvin",
}  # fmt: skip
_KNOWN = {
    word: name
    for name, spellings in _NAMES.items()
    for part, phrase in enumerate(spellings.split("|"))
    for word in (name, *(phrase.split() if part == 0 else [phrase]))
}
_CASED = re.compile(r"[mMpP]\w{1,3}|\w{1,2}[bB]|\w")
"""Symbols in which a letter's case tells units apart: mW and MW, Gb and GB."""
_UNIT = re.compile(r"[^\W\d_](?:[^\W\d_]|[ ./°]|\^-?\d)*|°\s*[CFcf]?|%(?: .*)?|[$€£¥¢]")


def unit_of(text: str) -> str | None:
    """The unit that stands behind a number, by its one name; "" for none, None where it is no unit: a variable."""
    unit = " ".join(text.split())
    if not unit:
        return ""
    if _UNIT.fullmatch(unit) is None:
        return None
    known = _name(unit)
    if known is not None:
        return known
    if len(unit) == 1 or unit in ("pi", "sqrt", "or", "and") or (not text[0].isspace() and unit[0] not in "%°"):
        return None
    if "^" in unit or "/" in unit or " " in unit:
        return unit if _CASED.fullmatch(unit) else unit.casefold()
    if _CASED.fullmatch(unit):
        return unit
    folded = unit.casefold()
    return folded[:-1] if len(folded) > 3 and folded.endswith("s") and not folded.endswith("ss") else folded


def _name(unit: str) -> str | None:
    """The one name of a unit that is known. A long word's case tells nothing, a symbol's does."""
    if re.fullmatch(r"°\s*[cfCF]", unit):
        return "°" + unit[-1].upper()
    if unit.startswith("% "):
        return unit
    return _KNOWN.get(unit) or (_KNOWN.get(unit.casefold()) if len(unit) > 3 else None)

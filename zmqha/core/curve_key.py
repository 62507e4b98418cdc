"""A CURVE key as text: 40 characters of Z85 that stand for 32 bytes. Anything else libzmq refuses, without saying why."""

Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
CHARACTERS = 40  # five of them are 32 bits


def is_key(text: str) -> bool:
    """Can this be a key? Five characters may stand for more than 32 bits."""
    if len(text) != CHARACTERS or not set(text) <= set(Z85):
        return False
    for at in range(0, CHARACTERS, 5):
        value = 0
        for character in text[at : at + 5]:
            value = value * 85 + Z85.index(character)
        if value >= 1 << 32:
            return False
    return True

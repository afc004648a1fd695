"""x"""


def add_options(p):
    pass


def report(o):
    pass

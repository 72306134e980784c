from covey.testing.drill.result import Result


def page(result: Result) -> str:
    return "<html/>"

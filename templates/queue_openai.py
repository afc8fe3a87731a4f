"""What the queue's worker makes of a streamed answer in OpenAI's form: the same answer as if not streamed."""

import json

PREFIX = "/v1/"
DONE = {"done": True}


def record(line):
    """A line of an answer: Ollama's own JSON, or the data of a server-sent event."""
    text = line.strip()
    if text.startswith(b"data:"):
        text = text[len(b"data:") :].strip()
        if text == b"[DONE]":
            return dict(DONE)
    return json.loads(text)


def reason(error):
    """An error's words: Ollama has a text, OpenAI a map with one."""
    return str(error.get("message") or error) if isinstance(error, dict) else str(error)


def fold(whole, part):
    """Adds a part to the whole answer; what the part says."""
    said = ""
    for name, value in part.items():
        if name != "choices":
            # a stream names its parts chunks
            whole[name] = value.removesuffix(".chunk") if name == "object" else value
            continue
        for choice in value:
            said += _choice(whole.setdefault("choices", []), choice)
    return said


def _choice(choices, part):
    own = next((one for one in choices if one.get("index") == part.get("index")), None)
    if own is None:
        own = {"index": part.get("index", 0)}
        choices.append(own)
    for name, value in part.items():
        if name == "delta":
            _join(own.setdefault("message", {}), value or {})
        elif name == "text":
            own["text"] = own.get("text", "") + (value or "")
        elif name == "logprobs" and value:
            _join(own.setdefault("logprobs", {}), value)
        elif value is not None or name not in own:
            own[name] = value
    return part.get("text") or (part.get("delta") or {}).get("content") or ""


def _join(whole, part):
    """Texts and lists grow; a role is said with each part, and once is enough."""
    for name, value in part.items():
        if isinstance(value, str) and name != "role":
            whole[name] = (whole.get(name) or "") + value
        elif isinstance(value, list):
            whole[name] = (whole.get(name) or []) + value
        elif value is not None or name not in whole:
            whole[name] = value


def result(whole):
    """The answer without the word that it has ended."""
    return {name: value for name, value in whole.items() if name != "done"}

"""Gateway ⇄ executor: framed messages with tensor payloads that are never re-encoded.

``messages`` says what is said, ``framing`` how it lies on the wire, ``session`` who may say what
when. Sans-I/O: the gateway's link and the executor's loop move the bytes.
"""

"""A history folded into user states and item rows at once, as if it had come in event by event.

    files ─► checked ─► by user: states, and what items take from them ─► by item: rows
              rows        (order of the log within each user)              (the log's one order)

Between the passes lie files, each made of some others by a pure function and appearing whole: so any of it can be done
anywhere, again, or after an interruption. Nothing here knows Ray, nor a store before `writing`.
"""

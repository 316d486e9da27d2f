"""A notebook cell: run it, stop it, change the prompt, run it again.

For people who work in Jupyter or an interactive shell. ``named`` finds the queue of the
last run, so that no run leaves threads behind and what was learnt about the limits
stays. The interrupt button cancels what has not been sent and keeps what was
answered as ``queue.last_partial``.
"""

# %% The cell you run again and again.
from groq_queue import GroqQueue

TEMPLATE = 'One word for the mood of "{}".'

queue = GroqQueue.named("notebook", model="llama-3.1-8b-instant", max_workers=4)
reviews = ["Great tea.", "Came broken.", None, "Late, but good.", "Never again."]
moods = queue.map_column(reviews, TEMPLATE, progress=True, max_completion_tokens=10)

# %% Only if you interrupted it: this asks what has no answer yet.
if queue.last_partial is not None:
    moods = queue.map_column(reviews, TEMPLATE, done=queue.last_partial, max_completion_tokens=10)

# %% Look at it. Numbers about all runs: queue.report(); where every limit stands: queue.stats().
for review, mood in zip(reviews, moods, strict=True):
    print(review, "->", mood)
print(queue.stats().completed, "answers so far")

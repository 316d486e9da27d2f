#!/bin/sh
# JSONL from the shell: no Python to write, stopped and started as you like.
#
# For people who have a file of questions. It estimates what they will take, sends them,
# and picks the texts of the answers. The same command again goes on where it was
# stopped, by Ctrl-C, a kill or a power cut: what was answered is in run.db and is not
# sent, or paid for, again.
#
#   sh shell_jsonl.sh questions.jsonl answers.jsonl
set -eu
questions=$1
answers=$2

groq-queue estimate "$questions" --rpm 1000 --tpm 250000 >&2

code=0
groq-queue run "$questions" -o "$answers" --journal run.db --resume --rpm 1000 --tpm 250000 || code=$?
case $code in
0) echo "all answered" ;;
1) echo "some failed; once the cause is mended: groq-queue retry-failed --journal run.db" ;;
4) echo "a daily limit is spent; run this again tomorrow" ;;
130 | 143) echo "stopped; run this again to go on" ;;
*) exit "$code" ;;
esac

groq-queue status --journal run.db >&2
python3 - "$answers" <<'PYTHON'
import json, sys

with open(sys.argv[1], encoding="utf-8") as answers:
    for answer in map(json.loads, answers):
        if answer["error"] is None:
            print(answer["custom_id"], answer["response"]["body"]["choices"][0]["message"]["content"], sep="\t")
PYTHON
exit "$code"

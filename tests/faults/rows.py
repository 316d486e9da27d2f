from collections import namedtuple
from . import futures, endings, limits, http, inputs, resources
Row=namedtuple("Row","number scenario")
ROWS=[Row(n.upper(),f) for m in (futures,endings,limits,http, inputs, resources) for n,f in vars(m).items() if n[0]=="d" and n[1:].isdigit()]
ROWS.append(Row("D45b",http.redirects))

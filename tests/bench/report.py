"""A result as a table (Markdown) and a plot (gnuplot, SVG)."""
import shutil
import subprocess

DISTURBED = "**This run was disturbed; its figures are provisional.**"


def by_point(result):
    """[(scenario, label, {contestant: row})] in order."""
    points = {}
    for row in result["points"]:
        points.setdefault((row["scenario"], row["label"]), {})[row["contestant"]] = row
    return [(scenario, label, rows) for (scenario, label), rows in points.items()]


def number(value):
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.1f} k" if value >= 1e3 else f"{value:.0f}"


def duration(us):
    return f"{us / 1e3:.1f} ms" if us >= 1000 else f"{us:.0f} us"


def comparison(result, scenario, opponent):
    lines = [f"| {scenario} | ours | {opponent} | ratio | p99, last session |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, label, rows in by_point(result):
        if name != scenario or "ours" not in rows or opponent not in rows:
            continue
        ours, other = rows["ours"]["medians"], rows[opponent]["medians"]
        lines.append(f"| {label} | {number(ours['deliveries_per_cpu_s'])} | {number(other['deliveries_per_cpu_s'])} "
                     f"| {ours['deliveries_per_cpu_s'] / other['deliveries_per_cpu_s']:.2f} "
                     f"| {duration(ours['last_p99_us'])} |")
    return lines if len(lines) > 2 else []


def rates(result):
    points = [(label, rows) for scenario, label, rows in by_point(result) if scenario == "rates" and "ours" in rows]
    if not points:
        return []
    lines = ["| rates | contestant | deliveries per CPU-second | ours is | p50 | p99, last session | of a core |",
             "| --- | --- | ---: | ---: | ---: | ---: | ---: |"]
    for label, rows in points:
        ours = rows["ours"]["medians"]
        for name, row in rows.items():
            m = row["medians"]
            title = result["titles"][name]
            if row["saturated"]:
                lines.append(f"| {label} | {title} | saturated: {m['delivered_share']:.0%} delivered | | | | {m['core_share']:.2f} |")
                continue
            ratio = "" if name == "ours" else f"{ours['deliveries_per_cpu_s'] / m['deliveries_per_cpu_s']:.2f} times"
            lines.append(f"| {label} | {title} | {number(m['deliveries_per_cpu_s'])} | {ratio} | {duration(m['p50_us'])} "
                         f"| {duration(m['last_p99_us'])} | {m['core_share']:.2f} |")
    return lines


def sessions(result):
    if "sessions" not in result:
        return []
    s = result["sessions"]
    accept, idle = s["accept"], s["idle"]
    first, last = accept["steps"][0], accept["steps"][-1]
    return ["| sessions | |", "| --- | ---: |",
            f"| accept, verify RS256, bind with a cached grant: CPU, median | {accept['median_cpu_us']:.0f} us |",
            f"| .. of the first 1000 | {first['cpu_us']:.0f} us |",
            f"| .. from {last['sessions'] - 1000} to {last['sessions']} | {last['cpu_us']:.0f} us |",
            f"| user memory per idle session, {idle['sessions']} of them | {idle['user_bytes']:.0f} B |",
            f"| kernel memory per idle session (one end of the connection) | {idle['kernel_bytes']:.0f} B |"]


def ingest(result):
    if "ingest" not in result:
        return []
    lines = ["| 1 kB events, five-word keys | events/s | CPU per event | broker's | Redis's |",
             "| --- | ---: | ---: | ---: | ---: |"]
    for name in ("ingest", "consume-only"):
        m = result["ingest"][name]
        redis = f"{m['redis_cpu_us']:.1f} us" if "redis_cpu_us" in m else ""
        lines.append(f"| {name} | {number(m['events_per_s'])} | {m['cpu_us']:.2f} us | {m['broker_cpu_us']:.1f} us | {redis} |")
    lines.append(f"| ratio of the rates | {result['ingest']['rate_ratio']:.2f} | | | |")
    return lines


def noise(result):
    """How long our server and the floor, which have one thread, waited for the core that should be theirs: (median, worst)."""
    shares = sorted(r["wait_share"] for row in result["points"] for r in row["rounds"]
                    if row["contestant"] in ("ours", "floor", "floor-coalesced"))
    return (shares[len(shares) // 2], shares[-1]) if shares else (0, 0)


def is_disturbed(result):
    return noise(result)[0] > 0.02 or noise(result)[1] > 0.1


def table(result):
    median, worst = noise(result)
    blocks = [[f"{result['processor']}, {result['cores']} cores, Linux {result['kernel']}; commit {result['commit']}; "
               f"{result['when']}{', --quick' if result['quick'] else ''}; medians of {result['rounds']} alternating rounds; "
               "deliveries per CPU-second of the server.",
               f"Something else had the server's core while the server had work to do: {median:.1%} of the time in the median "
               f"measurement, {worst:.0%} in the worst. {DISTURBED if is_disturbed(result) else ''}".rstrip()],
              comparison(result, "fan-out", "floor"), comparison(result, "bursts", "floor-coalesced"),
              comparison(result, "selective", "floor"), rates(result), sessions(result), ingest(result)]
    absent = result.get("absent") or {}
    if absent:
        blocks.append(["Not taking part: " + "; ".join(f"{n} ({why})" for n, why in absent.items()) + "."])
    return "\n\n".join("\n".join(b) for b in blocks if b) + "\n"


def plot(result, output):
    """Latency against rate, one line per contestant; saturated points are left out."""
    series = {}
    for row in result["points"]:
        if row["scenario"] == "rates" and not row["saturated"]:
            series.setdefault(row["contestant"], []).append((row["rate"], row["medians"]["last_p99_us"] / 1000))
    series = {name: sorted(points) for name, points in series.items()}
    if not series or not shutil.which("gnuplot"):
        return False
    data = "\n\n\n".join("\n".join(f"{x} {y}" for x, y in points) for points in series.values())
    (output / "latency.dat").write_text(data + "\n")
    curves = ", ".join(f'"{output}/latency.dat" index {i} with linespoints title "{result["titles"][name]}"'
                       for i, name in enumerate(series))
    script = f"""set terminal svg size 900,560 font "sans,13"
set output "{output}/latency.svg"
set logscale xy
set xlabel "events per second to 1000 sessions"
set ylabel "milliseconds from publishing to the last session, 99th percentile"
set key outside right
set grid
plot {curves}
"""
    subprocess.run(["gnuplot"], input=script, text=True, check=True)
    return True


BEGIN, END = "<!-- table: tests/bench/run --docs -->", "<!-- end of table -->"


def write_docs(result, output, docs):
    """Put the table and the plot where docs/performance.md shows them."""
    page = docs / "performance.md"
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no place for the table")
    picture = ""
    if (output / "latency.svg").exists():
        shutil.copy(output / "latency.svg", docs / "latency.svg")
        picture = "\n![Latency against rate](latency.svg)\n"
    page.write_text(f"{before}{BEGIN}\n\n{table(result)}{picture}\n{END}{after}")
    print(f"{page} has the new table")


def write(result, output):
    text = table(result)
    (output / "table.md").write_text(text)
    print(text)
    drawn = plot(result, output)
    print(f"{output}/result.json, table.md" + (", latency.svg" if drawn else ""))

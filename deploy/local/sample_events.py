#!/usr/bin/python3
"""Publishes sample task events, shaped like those of the original's workflow service.

A task is requested, runs with progress, and finishes (one in eight fails). Each change is published to
    wf            task.<instance>.<task>
    wf.task       <instance>.<task>
and, when a task begins or ends, its instance to wf.instance (<group>.<instance>); a finished task also creates a
dataset: warehouse (dataset.create.<user>.<project>.<dataset>) and warehouse.dataset (<project>.<dataset>). Every
tenth event is followed by an announcement to public (news.sample).
"""
import argparse
import json
import random
import signal
import sys
import time
from datetime import datetime, timezone

import pika
from pika.exceptions import AMQPError

import sample_data


def now():
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def new_id():
    return f"{int(time.time()):08x}" + "".join(random.choice("0123456789abcdef") for _ in range(16))


class Task:
    """What the workflow service keeps of a task, and the next thing that happens to it."""

    def __init__(self, instance_id, previous):
        instance = sample_data.INSTANCES[instance_id]
        task_id = new_id()
        service, name = random.choice(sample_data.SERVICES)
        self.instance_id = instance_id
        self.steps_left = random.randint(2, 4)
        self.steps = self.steps_left
        self.value = {
            "_id": task_id, "status": "requested", "status_msg": "", "request_date": now(),
            "progress_key": f"_sca.{instance_id}.{task_id}", "user_id": instance["user_id"],
            "config": {"source_dir": f"{instance_id}/{previous}" if previous else f"{instance_id}/upload"},
            "instance_id": instance_id, "service": service, "service_branch": "main", "name": name, "__v": 0,
            "_group_id": instance["group_id"], "resource_id": "575ee815b62439c67b693b85",
            "create_date": now(), "resource_ids": ["575ee815b62439c67b693b85"], "resource_deps": [],
            "deps": [previous] if previous else [], "nice": 0, "run": 0,
        }

    @property
    def is_over(self):
        return self.value["status"] in ("finished", "failed")

    def advance(self):
        v = self.value
        v["__v"] += 1
        v["update_date"] = now()
        if v["status"] == "requested":
            v.update(status="running", status_msg="job started", start_date=now(), run=1, progress=0.0)
        elif self.steps_left > 0:
            self.steps_left -= 1
            v["progress"] = round(1 - self.steps_left / self.steps, 2)
            v["status_msg"] = f"working, {round(v['progress'] * 100)} %"
        elif random.randrange(8) == 0:
            v.update(status="failed", status_msg="the app ended with exit code 1", fail_date=now())
        else:
            v.update(status="finished", status_msg="Successfully completed", finish_date=now())


class Publisher:
    def __init__(self, url):
        self.url = url
        self.connection = None
        self.channel = None

    def connect(self):
        parameters = pika.URLParameters(self.url)
        parameters.heartbeat = 30
        self.connection = pika.BlockingConnection(parameters)
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()
        for exchange in sample_data.EXCHANGES:
            self.channel.exchange_declare(exchange, "topic", durable=True)

    def publish(self, exchange, key, value):
        properties = pika.BasicProperties(content_type="application/json", delivery_mode=2)
        self.channel.basic_publish(exchange, key, json.dumps(value, separators=(",", ":")).encode(), properties)

    def wait(self, seconds):
        self.connection.process_data_events(seconds)


def publish_change(publisher, task):
    v = task.value
    instance = sample_data.INSTANCES[task.instance_id]
    publisher.publish("wf", f"task.{task.instance_id}.{v['_id']}", v)
    publisher.publish("wf.task", f"{task.instance_id}.{v['_id']}", v)
    print(f"{now()} {v['status']:9} task.{task.instance_id}.{v['_id']} {v['status_msg']}", flush=True)
    if v["status"] == "requested" or task.is_over:
        publisher.publish("wf.instance", f"{instance['group_id']}.{task.instance_id}",
                          {"_id": task.instance_id, "name": instance["name"], "user_id": instance["user_id"],
                           "group_id": instance["group_id"], "status": v["status"], "update_date": now()})
    if v["status"] == "finished":
        dataset = {"_id": new_id(), "project": instance["project"], "user_id": instance["user_id"],
                   "desc": f"output of {v['service']}", "status": "stored", "create_date": now(),
                   "prov": {"task_id": v["_id"], "instance_id": task.instance_id}}
        publisher.publish("warehouse", f"dataset.create.{instance['user_id']}.{instance['project']}.{dataset['_id']}",
                          dataset)
        publisher.publish("warehouse.dataset", f"{instance['project']}.{dataset['_id']}", dataset)


def run(publisher, interval_s):
    tasks = {instance_id: None for instance_id in sample_data.INSTANCES}
    count = 0
    while True:
        instance_id = random.choice(list(tasks))
        task = tasks[instance_id]
        if task is None or task.is_over:
            done = task.value["_id"] if task is not None and task.value["status"] == "finished" else None
            task = tasks[instance_id] = Task(instance_id, done)
        else:
            task.advance()
        publish_change(publisher, task)
        count += 1
        if count % 10 == 0:
            publisher.publish("public", "news.sample", {"text": f"{count} sample events published", "date": now()})
        publisher.wait(interval_s)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--amqp", default="amqp://guest:guest@127.0.0.1:18101/%2f", help="URL of the broker")
    parser.add_argument("--interval", type=float, default=0.7, help="seconds between two changes (default %(default)s)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    publisher = Publisher(arguments.amqp)
    while True:
        try:
            publisher.connect()
            run(publisher, arguments.interval)
        except (AMQPError, OSError) as e:
            print(f"{now()} broker: {e!r}; trying again in 2 s", flush=True)
            time.sleep(2)
        except KeyboardInterrupt:
            return 0


if __name__ == "__main__":
    sys.exit(main())

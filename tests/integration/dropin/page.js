// The client of the original's README in a page that node pretends to be.
//
//   node page.js URL EXCHANGE KEY TOKEN
//
// Every line of standard output is one JSON value that says what the page saw.
"use strict";

const ReconnectingWebSocket = require("reconnecting-websocket");
global.WebSocket = require("ws");

const [url, ex, key, token] = process.argv.slice(2);
const localStorage = { getItem: () => token };
const say = what => process.stdout.write(JSON.stringify(what) + "\n");

// From here on as in the README, except for where it logs, and what it binds.
var jwt = localStorage.getItem("jwt");
var eventws = new ReconnectingWebSocket(url + "?jwt=" + jwt);
eventws.onopen = function(e) {
    say({ open: true });
    eventws.send(JSON.stringify({
        bind: {
            ex: ex, key: key,
        }
    }));
}
eventws.onmessage = function(e) {
    var data = JSON.parse(e.data);
    var task = data.msg;
    say({ task: [task._id, task.status, task.status_msg, task.next_date], error: data.error });
}
// The README has no more; this is for the test's eyes.
eventws.onclose = function(e) {
    say({ close: e.code });
}

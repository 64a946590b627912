import { follow } from "/assets/common.js";
follow(document.getElementById("events"));

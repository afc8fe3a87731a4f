// ogen: balancer api: the JSON "model" of a request chooses the pool

import crypto from 'crypto';

// names that clients may ask for, and the pool of each (null: no instance serves it now)
var POOL_OF = {
    "chat": "pool_chat",
    "chat:latest": "pool_chat",
    "embed": "pool_embed",
    "embed:latest": "pool_embed",
    "gpt-4o-mini": "pool_chat",
    "gpt-4o-mini:latest": "pool_chat"
};

// the pools that have instances
var POOLS = [
    "pool_chat",
    "pool_embed"
];

// what a client may send in `options`: these, or where it is null all but what Ollama reloads a model for
var ALLOWED_OPTIONS = null;
var RUNNER_OPTIONS = [
    "embedding_only",
    "f16_kv",
    "logits_all",
    "low_vram",
    "main_gpu",
    "num_batch",
    "num_gpu",
    "num_gqa",
    "num_thread",
    "numa",
    "use_mlock",
    "use_mmap",
    "vocab_only"
];

// num_ctx: a number caps it; "plan" is the model's own, since any other value reloads the model
var MAX_CONTEXT = "plan";

function has(object, key) {
    return Object.prototype.hasOwnProperty.call(object, key);
}

// "chat" and "registry.ollama.ai/library/chat" are "chat:latest"
function canonical(name) {
    name = name.replace(/^registry\.ollama\.ai\//, '').replace(/^library\//, '');
    return name.lastIndexOf(':') > name.lastIndexOf('/') ? name : name + ':latest';
}

// a name in an error: what is not ASCII need not be text at all
function shown(name) {
    return name.replace(/[^ -~]/g, '?').slice(0, 200);
}

// an error as the API that was asked writes it
function fail(r, status, message, type) {
    var body = { error: message };
    if (r.uri === '/v1/messages') {
        body = { type: 'error', error: { type: type, message: message } };
    } else if (r.uri.indexOf('/v1/') === 0) {
        body = { error: { message: message, type: type, param: null, code: null } };
    }
    r.headersOut['Content-Type'] = 'application/json';
    r.return(status, JSON.stringify(body));
}

function parsed(r) {
    try {
        var body = JSON.parse(r.requestText);
        return body !== null && typeof body === 'object' && !Array.isArray(body) ? body : null;
    } catch (e) {
        return null;
    }
}

// sends a request with a body to the pool of its model
function route(r) {
    if (r.method !== 'POST') {
        r.headersOut['Allow'] = 'POST';
        return fail(r, 405, 'use POST', 'invalid_request_error');
    }
    if (!r.requestText) {
        return fail(r, 400, 'missing request body', 'invalid_request_error');
    }
    var body = parsed(r);
    if (body === null) {
        return fail(r, 400, 'invalid JSON in the request body', 'invalid_request_error');
    }
    body = within_plan(body);
    var name = body.model;
    if (typeof name !== 'string' || name === '') {
        return fail(r, 400, 'model is required', 'invalid_request_error');
    }
    var full = canonical(name);
    if (!has(POOL_OF, full)) {
        return fail(r, 404, "model '" + shown(name) + "' not found", 'not_found_error');
    }
    var pool = POOL_OF[full];
    if (pool === null) {
        return fail(r, 503, "no instance serves '" + shown(name) + "' now", 'overloaded_error');
    }
    r.variables.ogen_model = full;
    r.variables.ogen_pool = pool;
    r.variables.ogen_body = JSON.stringify(body);
    return r.internalRedirect('@pool_body');
}

// Go reads keys without regard to case, with two letters of Unicode that count as k and s
function folded(key) {
    return key.replace(/\u212a/g, 'k').replace(/\u017f/g, 's').toLowerCase();
}

// a body without what clients may not change; each key that Ollama would read is there once
function within_plan(body) {
    var kept = Object.create(null);  // "__proto__" is a key like others
    Object.keys(body).forEach(function (key) {
        var low = folded(key);
        var known = low === 'options' || low === 'keep_alive' || low === 'model' || low === 'name';
        kept[known ? low : key] = body[key];
    });
    if (!allowed('keep_alive')) {
        delete kept.keep_alive;
    }
    if (kept.options !== null && typeof kept.options === 'object' && !Array.isArray(kept.options)) {
        kept.options = options_within_plan(kept.options);
    }
    kept.model = kept.model || kept.name;
    return kept;
}

function allowed(option) {
    if (ALLOWED_OPTIONS !== null && ALLOWED_OPTIONS.indexOf(option) !== -1) {
        return true;
    }
    return ALLOWED_OPTIONS === null && RUNNER_OPTIONS.indexOf(option) === -1 && option !== 'keep_alive';
}

function options_within_plan(options) {
    var kept = Object.create(null);
    Object.keys(options).forEach(function (key) {
        if (folded(key) === 'num_ctx') {
            if (MAX_CONTEXT !== 'plan' && typeof options[key] === 'number') {
                kept.num_ctx = Math.min(options[key], MAX_CONTEXT);
            }
        } else if (allowed(folded(key))) {
            kept[key] = options[key];
        }
    });
    return kept;
}

// asks one instance of every pool; the pools that do not answer are named in a header
function ask_all(r, path) {
    var names = POOLS;
    var asked = names.map(function (pool) {
        return r.subrequest('/_ogen/' + pool + path).then(function (reply) {
            return reply.status === 200 ? JSON.parse(reply.responseText) : null;
        }).catch(function () {
            return null;
        });
    });
    return Promise.all(asked).then(function (answers) {
        var missing = names.filter(function (_, i) { return answers[i] === null; });
        if (missing.length) {
            r.headersOut['X-Ogen-Missing'] = missing.join(', ');
        }
        return answers.filter(function (answer) { return answer !== null; });
    });
}

function answer(r, answers, make) {
    if (answers.length === 0) {
        return fail(r, 502, 'no instance answers', 'api_error');
    }
    r.headersOut['Content-Type'] = 'application/json';
    r.return(200, JSON.stringify(make(answers)));
}

// one list of all answers' lists, each entry once, and only models that this balancer routes
function merged(answers, list, key) {
    var seen = {};
    var all = [];
    answers.forEach(function (reply) {
        (reply[list] || []).forEach(function (entry) {
            var name = canonical(String(entry[key]));
            if (has(POOL_OF, name) && !has(seen, name)) {
                seen[name] = true;
                all.push(entry);
            }
        });
    });
    return all;
}

function read_only(r) {
    if (r.method === 'GET' || r.method === 'HEAD') {
        return true;
    }
    r.headersOut['Allow'] = 'GET, HEAD';
    fail(r, 405, 'use GET', 'invalid_request_error');
    return false;
}

function tags(r) {
    return read_only(r) && ask_all(r, '/api/tags').then(function (answers) {
        answer(r, answers, function (all) { return { models: merged(all, 'models', 'name') }; });
    });
}

function ps(r) {
    return read_only(r) && ask_all(r, '/api/ps').then(function (answers) {
        answer(r, answers, function (all) { return { models: merged(all, 'models', 'name') }; });
    });
}

function models(r) {
    return read_only(r) && ask_all(r, '/v1/models').then(function (answers) {
        answer(r, answers, function (all) { return { object: 'list', data: merged(all, 'data', 'id') }; });
    });
}

function model(r) {
    if (!read_only(r)) {
        return;
    }
    var name = r.uri.slice('/v1/models/'.length);
    var full = canonical(name);
    if (!has(POOL_OF, full)) {
        return fail(r, 404, "model '" + shown(name) + "' not found", 'not_found_error');
    }
    if (POOL_OF[full] === null) {
        return fail(r, 503, "no instance serves '" + name + "' now", 'overloaded_error');
    }
    r.variables.ogen_model = full;
    r.variables.ogen_pool = POOL_OF[full];
    return r.internalRedirect('@pool');
}

function version(r) {
    return read_only(r) && ask_all(r, '/api/version').then(function (answers) {
        answer(r, answers, function (all) { return all[0]; });
    });
}

// not by `return` in nginx's file, which does not ask whose network it is
function alive(r) {
    r.headersOut['Content-Type'] = 'text/plain';
    r.return(200, 'Ollama is running');
}

// keys are known by their sha256
function digest(r) {
    return crypto.createHash('sha256').update(r.variables.ogen_presented || '').digest('hex');
}

export default { alive, digest, route, tags, ps, models, model, version };

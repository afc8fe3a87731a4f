// ogen: balancer api: the JSON "model" of a request chooses the pool

// names that clients may ask for, and the pool of each (null: no instance serves it now)
var POOL_OF = {
    "chat": "pool_chat",
    "chat:latest": "pool_chat",
    "gpt-4o-mini": "pool_chat",
    "gpt-4o-mini:latest": "pool_chat",
    "large": "pool_large",
    "large:latest": "pool_large"
};

// the pools that have instances, with the context that was planned
var POOLS = {
    "pool_chat": {
        "context": 8192
    },
    "pool_large": {
        "context": 4096
    }
};

// what a client may send in `options` (null: anything); contexts above the plan's are cut to it
var ALLOWED_OPTIONS = null;
var MAX_CONTEXT = null;
var ENFORCED = false;

function has(object, key) {
    return Object.prototype.hasOwnProperty.call(object, key);
}

// "chat" and "registry.ollama.ai/library/chat" are "chat:latest"
function canonical(name) {
    name = name.replace(/^registry\.ollama\.ai\//, '').replace(/^library\//, '');
    return name.lastIndexOf(':') > name.lastIndexOf('/') ? name : name + ':latest';
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
    var name = body.model || body.name;
    if (typeof name !== 'string' || name === '') {
        return fail(r, 400, 'model is required', 'invalid_request_error');
    }
    var full = canonical(name);
    if (!has(POOL_OF, full)) {
        return fail(r, 404, "model '" + name.slice(0, 200) + "' not found", 'not_found_error');
    }
    var pool = POOL_OF[full];
    if (pool === null) {
        return fail(r, 503, "no instance serves '" + name.slice(0, 200) + "' now", 'overloaded_error');
    }
    r.variables.ogen_model = full;
    r.variables.ogen_pool = pool;
    return r.internalRedirect('@pool');
}

// a body without what the inventory does not let clients change. Ollama reads keys without regard
// to case, so each is written in lower case, and the last one of a kind counts
function within_plan(body, planned) {
    var kept = {};
    Object.keys(body).forEach(function (key) {
        var low = key.toLowerCase();
        kept[low === 'options' || low === 'keep_alive' || low === 'model' || low === 'name' ? low : key] = body[key];
    });
    delete kept.keep_alive;
    if (kept.options !== null && typeof kept.options === 'object') {
        kept.options = options_within_plan(kept.options, planned);
    }
    return kept;
}

function options_within_plan(options, planned) {
    var kept = {};
    var most = MAX_CONTEXT === 'plan' ? planned : MAX_CONTEXT;
    Object.keys(options).forEach(function (key) {
        if (ALLOWED_OPTIONS === null || ALLOWED_OPTIONS.indexOf(key) !== -1) {
            kept[key] = options[key];
        }
    });
    if (most !== null && has(kept, 'num_ctx') && !(kept.num_ctx <= most)) {
        kept.num_ctx = most;
    }
    return kept;
}

// asks one instance of every pool; the pools that do not answer are named in a header
function ask_all(r, path) {
    var names = Object.keys(POOLS);
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

function tags(r) {
    return ask_all(r, '/api/tags').then(function (answers) {
        answer(r, answers, function (all) { return { models: merged(all, 'models', 'name') }; });
    });
}

function ps(r) {
    return ask_all(r, '/api/ps').then(function (answers) {
        answer(r, answers, function (all) { return { models: merged(all, 'models', 'name') }; });
    });
}

function models(r) {
    return ask_all(r, '/v1/models').then(function (answers) {
        answer(r, answers, function (all) { return { object: 'list', data: merged(all, 'data', 'id') }; });
    });
}

function model(r) {
    var name = r.uri.slice('/v1/models/'.length);
    var full = canonical(name);
    if (!has(POOL_OF, full)) {
        return fail(r, 404, "model '" + name + "' not found", 'not_found_error');
    }
    if (POOL_OF[full] === null) {
        return fail(r, 503, "no instance serves '" + name + "' now", 'overloaded_error');
    }
    r.variables.ogen_model = full;
    r.variables.ogen_pool = POOL_OF[full];
    return r.internalRedirect('@pool');
}

function version(r) {
    return ask_all(r, '/api/version').then(function (answers) {
        answer(r, answers, function (all) { return all[0]; });
    });
}

export default { route, tags, ps, models, model, version };

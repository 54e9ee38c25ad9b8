// Answers questions about a GGUF file with llama.cpp: one JSON object per line in, one per line out.
// node llama_cpp.mjs FILE THREADS CONTEXT KIND_OF_CACHE
import {createInterface} from "node:readline";
import {performance} from "node:perf_hooks";
import {getLlama} from "node-llama-cpp";

const [file, threads, contextSize, cache] = process.argv.slice(2);
const llama = await getLlama({gpu: false, build: "never", progressLogs: false, logLevel: "error", maxThreads: +threads});
const model = await llama.loadModel({modelPath: file, gpuLayers: 0});
const context = await model.createContext({
    contextSize: +contextSize,
    threads: {ideal: +threads, min: +threads},
    experimentalKvCacheKeyType: cache,
    experimentalKvCacheValueType: cache
});
const sequence = context.getSequence();

async function greedy({ids, count}) {
    const made = [], times = [];
    let first, spent;
    for await (const token of sequence.evaluate(ids, {temperature: 0, yieldEogToken: true})) {
        made.push(token);
        times.push(performance.now());
        first ??= process.cpuUsage();
        spent = process.cpuUsage(first);
        if (made.length === count)
            break;
    }
    return {ids: made, seconds: (times.at(-1) - times[0]) / 1000, cpu_seconds: (spent.user + spent.system) / 1e6};
}

async function forced({ids}) {
    const generateNext = {token: true, probabilities: true, options: {temperature: 0}};
    const found = await sequence.controlledEvaluate(ids.map((id) => [id, {generateNext}]));
    const chances = ids.slice(1).map((id, place) => found[place].next.probabilities.get(id));
    return {top: found.map((one) => one.next.token), losses: chances.map((chance) => -Math.log(chance))};
}

const answers = {
    greedy,
    forced,
    tokens: async ({text}) => ({ids: model.tokenize(text, false)})
};
for await (const line of createInterface({input: process.stdin})) {
    const question = JSON.parse(line);
    await sequence.clearHistory();
    console.log(JSON.stringify(await answers[question.about](question)));
}
process.exit(0);

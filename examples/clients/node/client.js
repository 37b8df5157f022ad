#!/usr/bin/env node
// Asks a Groundwire server about texts: label, decision, evidence, and how far to trust them.
// The stubs are made from the contract when the program starts.

import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';

const DEADLINE = 10_000; // milliseconds
const folder = (path) => fileURLToPath(new URL(path, import.meta.url));
const contract = loadSync(['groundwire/v1/prediction.proto', 'errors.proto'], {
  includeDirs: [folder('../../../proto'), folder('../proto')],
  keepCase: true,
  defaults: true,
  enums: String,
  longs: Number,
});
const { PredictionService } = grpc.loadPackageDefinition(contract).groundwire.v1;

function predict(client, request, metadata) {
  return new Promise((resolve, reject) => {
    const options = { deadline: Date.now() + DEADLINE };
    client.Predict(request, metadata, options, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

// A server that is busy says when to come back; take it at its word once.
async function ask(client, request, metadata) {
  try {
    return await predict(client, request, metadata);
  } catch (error) {
    const { retry } = details(error);
    if (error.code !== grpc.status.RESOURCE_EXHAUSTED || retry === undefined) throw error;
    showError(error);
    await sleep(Math.ceil(retry * 1000) + 1); // a timer may be a millisecond early
    return predict(client, request, metadata);
  }
}

// The details of google.rpc that came with an error: the fields at fault, and the seconds to wait.
function details(error) {
  const found = { fields: [], retry: undefined };
  const [packed] = error.metadata?.get('grpc-status-details-bin') ?? [];
  if (packed === undefined) return found;
  for (const { type_url, value } of contract['google.rpc.Status'].deserialize(packed).details) {
    const kind = type_url.split('/').pop();
    const detail = contract[kind]?.deserialize(value);
    if (kind === 'google.rpc.BadRequest') found.fields = detail.field_violations;
    if (kind === 'google.rpc.RetryInfo') found.retry = detail.retry_delay.seconds + detail.retry_delay.nanos / 1e9;
  }
  return found;
}

function showError(error) {
  const { fields, retry } = details(error);
  console.error(`${grpc.status[error.code]}: ${error.details}`);
  for (const { field, description } of fields) console.error(`  field ${field}: ${description}`);
  if (retry !== undefined) console.error(`  retry after ${retry.toFixed(3)} s`);
}

function show(text, { label, probability, decision, evidence, uncertainty }) {
  const { model, sensitivity, knowledge, explanation } = uncertainty;
  const share = (number) => number.toFixed(3);
  const yesNo = (said) => (said ? 'yes' : 'no');
  console.log(text);
  console.log(`  ${label} ${share(probability)} ${decision.replace('DECISION_', '').toLowerCase()}`);
  for (const triple of evidence) console.log(`  evidence    ${share(triple.relevance)} ${triple.text}`);
  console.log(
    `  model       agreement ${share(model.agreement)}, mutual information ${share(model.mutual_information)}`,
  );
  console.log(`  sensitivity margin ${share(sensitivity.margin)}, covered ${yesNo(sensitivity.covered)}`);
  console.log(
    `  knowledge   coverage ${share(knowledge.coverage)}, links ${share(knowledge.link_confidence)}, ` +
      `conflicts ${knowledge.conflicts}, in the graph ${yesNo(!knowledge.not_in_graph)}`,
  );
  console.log(
    `  explanation triples ${explanation.evidence_count}, relevance up to ${share(explanation.max_relevance)}`,
  );
}

const { values, positionals: texts } = parseArgs({
  allowPositionals: true,
  options: {
    target: { type: 'string', default: '127.0.0.1:50051' },
    ca: { type: 'string' },
    token: { type: 'string' },
  },
});
if (texts.length === 0) {
  console.error('usage: client.js [--target HOST:PORT] [--ca FILE] [--token TOKEN] TEXT...');
  process.exit(2);
}
const credentials = values.ca
  ? grpc.credentials.createSsl(readFileSync(values.ca))
  : grpc.credentials.createInsecure();
const metadata = new grpc.Metadata();
if (values.token) metadata.set('authorization', `Bearer ${values.token}`);
const client = new PredictionService(values.target, credentials);
try {
  const answer = await ask(client, { inputs: texts.map((text) => ({ text })) }, metadata);
  texts.forEach((text, i) => show(text, answer.predictions[i]));
} catch (error) {
  if (error.code === undefined) throw error;
  showError(error);
  process.exitCode = 1;
} finally {
  client.close();
}

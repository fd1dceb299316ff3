// What a person should hear of, and a workbook to look at. The queries are files of their own, in infra/queries, which
// a test holds to the names in the code.

param token string
param location string
param tags object
param insightsId string

@description('Who gets the alerts by e-mail; empty shows them in the portal only.')
param email string

@description('Hours without a new run after which somebody should look; 0 for never.')
@allowed([0, 1, 2, 3, 4, 5, 6, 24, 48])
param noRunHours int

@description('Percent of Klaviyo\'s answers in an hour that are 429, above which somebody should look.')
param rateLimitedPercent int

@description('Account whose only queue is the blob trigger\'s poison queue; empty for an account that others use too.')
param snapshotsAccountId string

resource people 'Microsoft.Insights/actionGroups@2023-01-01' = if (!empty(email)) {
  name: 'ag-${token}'
  location: 'global'
  tags: tags
  properties: {
    enabled: true
    groupShortName: 'exporter'
    emailReceivers: [{ name: 'operator', emailAddress: email, useCommonAlertSchema: true }]
  }
}

var actionGroupIds = empty(email) ? [] : [people.id]

var quietHours = max(noRunHours, 1)

// An alert that is not wanted is written out as disabled: a deployment takes nothing away. All of them count rows that tell of
// something wrong and fire at more than so many: less than one row would be true of an app that is new and empty, too.
var alerts = [
  {
    name: 'run-failed'
    title: 'Segment exporter: a run failed'
    query: loadTextContent('../queries/failed-runs.kql')
    severity: 1
    every: 'PT15M'
    window: 'PT15M'
    operator: 'GreaterThan'
    threshold: 0
    closes: false
    enabled: true
  }
  {
    name: 'poison-message'
    title: 'Segment exporter: a message failed five times'
    query: loadTextContent('../queries/poison-messages.kql')
    severity: 1
    every: 'PT15M'
    window: 'PT15M'
    operator: 'GreaterThan'
    threshold: 0
    closes: false
    enabled: true
  }
  {
    name: 'blob-not-noted'
    title: 'Segment exporter: a blob could not be noted'
    query: loadTextContent('../queries/poison-blobs.kql')
    severity: 1
    every: 'PT15M'
    window: 'PT15M'
    operator: 'GreaterThan'
    threshold: 0
    closes: false
    enabled: true
  }
  {
    name: 'function-failures'
    title: 'Segment exporter: functions fail again and again'
    query: loadTextContent('../queries/function-failures.kql')
    severity: 2
    every: 'PT15M'
    window: 'PT30M'
    operator: 'GreaterThan'
    threshold: 4
    closes: false
    enabled: true
  }
  {
    name: 'not-running'
    title: 'Segment exporter: the timer has not run for an hour'
    query: loadTextContent('../queries/timer.kql')
    severity: 1
    every: 'PT30M'
    window: 'P2D' // how far back it asks for the last one; the query says how long ago is too long
    operator: 'GreaterThan'
    threshold: 0
    closes: true
    enabled: true
  }
  {
    name: 'rate-limited'
    title: 'Segment exporter: Klaviyo answers 429 too often'
    query: replace(loadTextContent('../queries/rate-limited.kql'), '{PERCENT}', string(rateLimitedPercent))
    severity: 3
    every: 'PT30M'
    window: 'PT1H'
    operator: 'GreaterThan'
    threshold: 0
    closes: false
    enabled: true
  }
  {
    name: 'no-run'
    title: 'Segment exporter: no new run for ${quietHours} hours'
    query: replace(loadTextContent('../queries/new-runs.kql'), '{HOURS}', string(quietHours))
    severity: 2
    every: 'PT1H'
    window: quietHours >= 24 ? 'P${quietHours / 24}D' : 'PT${quietHours}H'
    operator: 'GreaterThan'
    threshold: 0
    closes: true
    enabled: noRunHours > 0
  }
]

resource logAlerts 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = [
  for alert in alerts: {
    name: '${alert.name}-${token}'
    location: location
    tags: tags
    kind: 'LogAlert'
    properties: {
      displayName: alert.title
      enabled: alert.enabled
      severity: alert.severity
      scopes: [insightsId]
      evaluationFrequency: alert.every
      windowSize: alert.window
      autoMitigate: alert.closes // what is missing may come back; what happened stays for a person to close
      skipQueryValidation: true // the tables appear with the first telemetry
      criteria: {
        allOf: [
          {
            query: alert.query
            timeAggregation: 'Count'
            operator: alert.operator
            threshold: alert.threshold
            failingPeriods: { numberOfEvaluationPeriods: 1, minFailingPeriodsToAlert: 1 }
          }
        ]
      }
      actions: { actionGroups: actionGroupIds }
    }
  }
]

// Azure counts messages once an hour and for the account as a whole; no other queue is in this account. In an account
// that others use too, only the log tells (blob-not-noted).
resource poisonBlobs 'Microsoft.Insights/metricAlerts@2018-03-01' = if (!empty(snapshotsAccountId)) {
  name: 'poison-blob-${token}'
  location: 'global'
  tags: tags
  properties: {
    description: 'Segment exporter: webjobs-blobtrigger-poison is not empty. docs/how-to/operate.md says what to do.'
    enabled: true
    severity: 1
    scopes: ['${snapshotsAccountId}/queueServices/default']
    evaluationFrequency: 'PT1H'
    windowSize: 'PT1H'
    autoMitigate: true
    criteria: {
      'odata.type': 'Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria'
      allOf: [
        {
          name: 'messages'
          criterionType: 'StaticThresholdCriterion'
          metricNamespace: 'Microsoft.Storage/storageAccounts/queueServices'
          metricName: 'QueueMessageCount'
          operator: 'GreaterThan'
          threshold: 0
          timeAggregation: 'Average'
          skipMetricValidation: true
        }
      ]
    }
    actions: [for id in actionGroupIds: { actionGroupId: id }]
  }
}

resource workbook 'Microsoft.Insights/workbooks@2023-06-01' = {
  name: guid(resourceGroup().id, token, 'workbook')
  location: location
  tags: tags
  kind: 'shared'
  properties: {
    displayName: 'Segment exporter'
    category: 'workbook'
    sourceId: insightsId
    serializedData: loadTextContent('../queries/workbook.json')
  }
}
